# The page on http://localhost:7860, on the CPU:
#   docker build -t generative-playground . && docker run --rm -p 7860:7860 generative-playground
FROM python:3.12-slim

# The server answers on every address of the container. Threads wait passively and there is one of
# them a run (engines/machine.py says why); named here, too, so that every process has it.
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    GRADIO_ANALYTICS_ENABLED=False \
    OMP_NUM_THREADS=1 \
    OMP_WAIT_POLICY=PASSIVE

# a C compiler makes live spline flows about three times as fast (engines/native.py)
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 visitor
WORKDIR /home/visitor/app

# torch of the CPU first, from its own index: the one on PyPI brings gigabytes of CUDA along. Its
# version is read off requirements.txt, where everything is pinned.
COPY requirements.txt .
RUN pip install --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' requirements.txt)" \
    && pip install -r requirements.txt

COPY --chown=visitor . .
USER visitor
EXPOSE 7860

HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/', timeout=4)"]

CMD ["python", "app.py"]
