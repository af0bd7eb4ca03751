# make run    the page on http://127.0.0.1:7860 (GRADIO_SERVER_PORT changes the port)
# make test   every test, in a real browser too
# make check  lint and the quick tests, in under two minutes
# make bench  measurements, printed; none of them is a test
# All of them set up what they need: a virtual environment, the pinned packages, a browser.

VENV   ?= .venv
PY     := $(VENV)/bin/python
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  && { command -v $$p; break; }; done)

# what was compiled once is kept: without, half of a quick run's beginning would go into that
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test check bench docs clips lint clean

run: $(VENV)/.run
	$(PY) app.py

# Two processes for what computes, each with one half of the tests in their order: neighbours often
# share what is dear. The browser keeps time, and leaves half of a core idle and more: what only
# computes, and the presets, train on what it leaves. Linux shares cores between sessions first, and
# looks at `nice` within each: so they have a session of their own, with a niceness of its own.
SETSID := $(shell command -v setsid)
BESIDE := tests/test_presets.py $(wildcard tests/test_engines*.py tests/test_gan*.py tests/test_flow*.py)

test: $(VENV)/.dev browser lint
	$(PY) -m pytest -n 2 --dist worksteal --ignore tests/browser $(BESIDE:%=--ignore %)
	@mkdir -p tests/out; \
	$(SETSID) sh -c '{ echo 19 >/proc/self/autogroup; } 2>/dev/null; exec nice -n 19 "$$@"' aside \
		$(PY) -m pytest -n 2 --dist worksteal $(BESIDE) >tests/out/beside.txt 2>&1 & \
	beside=$$!; trap "kill $$beside" INT TERM; \
	$(PY) -m pytest tests/browser; browser=$$?; \
	wait $$beside; beside=$$?; cat tests/out/beside.txt; exit $$((browser || beside))

check: $(VENV)/.dev lint
	$(PY) -m pytest -n 2 --dist worksteal --ignore tests/browser -m "not slow and not gpu"

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: $(VENV)/.dev browser
	$(PY) -m bench

.PHONY: browser
browser: $(VENV)/.dev
	$(PY) -m tests.browser.find --install

$(VENV)/.run: requirements.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.run

# Debian keeps ensurepip in a package of its own: install it where we may
$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); \
	  command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] \
	    && apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null \
	    && $(PYTHON) -m venv $(VENV); } \
	  || { echo "Could not make a virtual environment: install your system's python3-venv."; exit 1; }

clean:
	rm -rf $(VENV) bench/out tests/out

docs: $(VENV)/.run
	$(PY) -m app.docs

clips: $(VENV)/.run
	$(PY) -m app.clips
