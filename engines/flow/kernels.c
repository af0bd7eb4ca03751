/* What a training step of a spline flow is made of beside products of matrices, in single
   precision: rational-quadratic splines, as engines/flow/spline.py has them, and Adam.

   That file has the formulas and says what the names mean. Here a batch goes through in one call
   instead of some hundred small ones. Points are taken in groups: first each one's bin is found,
   then the arithmetic is done for the group in plain loops, which a compiler turns into vector
   instructions. No number is taken to be finite: what is not one shall reach the loss.

   m points, `step` numbers apart in memory, and K bins. theta is (rows, 3K + 1) with rows = m, or
   rows = 1 if all points share one spline. What is kept for the way back: share (rows, 2K), the
   softmax of the free widths and heights; bin (m,); and place (6, m), see `find`. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define GROUP 64
#define MOST 256 /* bins */
#define LEAST 1e-4f
#define STEEPEST 6.907755278982137f /* log 1000 */

typedef int64_t count;
typedef float group[GROUP];

/* e^x − 1 = scale·q + (scale − 1), where scale = 2^n, x = n·log 2 + r, and q = e^r − 1 is the
   value; x is held within ±87. */
static inline float reduced(float x, float *scale) {
  const float whole = 12582912.0f; /* 1.5·2^23: adding it rounds to a whole number */
  x = x < -87.0f ? -87.0f : x > 87.0f ? 87.0f : x;
  float shifted = x * 1.44269504f + whole, n = shifted - whole;
  uint32_t bits;
  memcpy(&bits, &shifted, 4);
  bits = (bits - 0x4B400000u + 127u) << 23;
  memcpy(scale, &bits, 4);
  float r = x - n * 0.693359375f + n * 2.12194440e-4f; /* log 2 in two parts */
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * r * r + r;
}

static inline float exponential(float x) {
  float scale, q = reduced(x, &scale);
  return scale + scale * q;
}

static inline float hyperbolic_tangent(float x) {
  float scale, q = reduced(2 * x, &scale), e = scale * q + (scale - 1);
  return e / (e + 2);
}

static inline float clamped(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }

static void softmax(count n, const float *restrict a, float *restrict p) {
  float top = a[0], sum = 0;
#pragma omp simd reduction(max : top)
  for (count j = 0; j < n; j++) top = a[j] > top ? a[j] : top;
#pragma omp simd reduction(+ : sum)
  for (count j = 0; j < n; j++) sum += p[j] = exponential(a[j] - top);
  float one = 1 / sum;
  for (count j = 0; j < n; j++) p[j] *= one;
}

static void shares(count bins, const float *theta, float *share) {
  softmax(bins, theta, share);
  softmax(bins, theta + bins, share + bins);
}

/* Of one spline for all: shares, and the left and lower ends of its bins. */
static void ends(count bins, const float *theta, float *share, float (*end)[MOST]) {
  shares(bins, theta, share);
  for (int j = 0; j < 2; j++) {
    float before = 0;
    for (count e = 0; e < bins; e++) {
      end[j][e] = before * (1 - bins * LEAST) + e * LEAST;
      before += share[j * bins + e];
    }
  }
}

/* The bins b that a group of n points falls in, and of each bin the column of place: its left and
   lower end, width and height, all in [0, 1], and the two free numbers behind the derivatives at
   its ends. by: 0 to look the points up among the widths, 1 among the heights. `end` is of one
   spline for all, where rows is 1; else share is filled here, a row after another where `keep`. */
static void find(count n, count bins, count rows, int by, const float *restrict inside,
                 const float *restrict theta, float *share, int keep, float (*end)[MOST],
                 group *restrict place, int32_t *restrict bin) {
  const float free = 1 - bins * LEAST;
  if (rows == 1) {
    memset(bin, 0, n * sizeof *bin);
    for (count e = 1; e < bins; e++)
      for (count i = 0; i < n; i++) bin[i] += end[by][e] <= inside[i];
  }
  for (count i = 0; i < n; i++) {
    int32_t b = 0;
    if (rows == 1) {
      b = bin[i];
      place[0][i] = end[0][b];
      place[1][i] = end[1][b];
    } else {
      shares(bins, theta, share);
      const float *mine = share + by * bins, *other = share + (1 - by) * bins;
      float before = 0, beside = 0;
      while (b < bins - 1 && LEAST * (b + 1) + free * (before + mine[b]) <= inside[i])
        before += mine[b++];
      for (int32_t e = 0; e < b; e++) beside += other[e];
      place[by][i] = before * free + b * LEAST;
      place[1 - by][i] = beside * free + b * LEAST;
      bin[i] = b;
    }
    place[2][i] = share[b] * free + LEAST;
    place[3][i] = share[bins + b] * free + LEAST;
    place[4][i] = theta[2 * bins + b];
    place[5][i] = theta[2 * bins + b + 1];
    if (rows != 1) {
      theta += 3 * bins + 1;
      share += keep ? 2 * bins : 0;
    }
  }
}

/* y at x, and log dy/dx is added to log_slope; both lie as x does. share, place and bin are 0
   where nobody goes back. */
void spline_forward(count m, count bins, count rows, count step, float bound,
                    const float *restrict x, const float *restrict theta, float *restrict y,
                    count log_step, float *restrict log_slope, float *restrict share,
                    float *restrict place, int32_t *restrict bin) {
  float spare[2 * MOST], end[2][MOST], *p = share ? share : spare;
  if (rows == 1) ends(bins, theta, p, end);
  for (count at = 0; at < m; at += GROUP) {
    count n = m - at < GROUP ? m - at : GROUP, row = rows == 1 ? 0 : at;
    group given, inside, here[6], value, slope;
    int32_t found[GROUP];
    for (count i = 0; i < n; i++) {
      given[i] = x[(at + i) * step];
      inside[i] = clamped(given[i] / (2 * bound) + 0.5f);
    }
    find(n, bins, rows, 0, inside, theta + row * (3 * bins + 1), share ? share + row * 2 * bins : p,
         share != 0, end, here, found);
    if (share) {
      memcpy(bin + at, found, n * sizeof *found);
      for (int j = 0; j < 6; j++) memcpy(place + j * m + at, here[j], n * sizeof(float));
    }
    for (count i = 0; i < n; i++) {
      float in = inside[i], x0 = here[0][i], y0 = here[1][i], w = here[2][i], h = here[3][i];
      float d0 = exponential(STEEPEST * hyperbolic_tangent(here[4][i] / STEEPEST));
      float d1 = exponential(STEEPEST * hyperbolic_tangent(here[5][i] / STEEPEST));
      int outside = (in <= 0) | (in >= 1);
      float s = h / w, t = outside ? in : clamped((in - x0) / w);
      float rest = 1 - t, u = t * rest, t2 = t * t;
      float below = s + (d0 + d1 - 2 * s) * u, part = (s * t2 + d0 * u) / below;
      float rise = d0 * rest * rest + d1 * t2 + 2 * s * u, q = s / below;
      float line = given[i] - (2 * in - 1) * bound, straight = outside ? line : 0;
      slope[i] = rise * q * q;
      value[i] = (y0 + h * part) * (2 * bound) - bound + slope[i] * straight;
    }
    for (count i = 0; i < n; i++) {
      y[(at + i) * step] = value[i];
      log_slope[(at + i) * log_step] += logf(slope[i]);
    }
  }
}

/* What reaches the bins of a spline that all points share, summed over the points; and then the
   gradient of its theta. */
typedef struct {
  double start[2][MOST], size[2][MOST], common[2], bend[MOST + 1];
} sums;

static void gradient(count bins, const sums *all, const float *share, float *g_theta) {
  for (int j = 0; j < 2; j++) {
    double later = 0;
    for (count e = bins - 1; e >= 0; e--) {
      double g = later + all->size[j][e] - all->common[j];
      g_theta[j * bins + e] = (float)(share[j * bins + e] * g);
      later += all->start[j][e];
    }
  }
  for (count e = 0; e <= bins; e++) g_theta[2 * bins + e] = (float)all->bend[e];
}

/* Gradients of x and of theta, from those of y and of log dy/dx. */
void spline_backward(count m, count bins, count rows, count step, float bound,
                     const float *restrict x, const float *restrict share,
                     const float *restrict place, const int32_t *restrict bin,
                     const float *restrict g_y, count log_step, const float *restrict g_log,
                     float *restrict g_x, float *restrict g_theta) {
  const float free = 1 - bins * LEAST;
  sums all;
  if (rows == 1) memset(&all, 0, sizeof all);
  for (count at = 0; at < m; at += GROUP) {
    count n = m - at < GROUP ? m - at : GROUP;
    group given, g_value, g_slope, g_given, here[6], g_start[2], g_size[2], g_bend[2];
    for (int j = 0; j < 6; j++) memcpy(here[j], place + j * m + at, n * sizeof(float));
    for (count i = 0; i < n; i++) {
      given[i] = x[(at + i) * step];
      g_value[i] = g_y[(at + i) * step];
      g_slope[i] = g_log[(at + i) * log_step];
    }
    for (count i = 0; i < n; i++) {
      float in = clamped(given[i] / (2 * bound) + 0.5f), x0 = here[0][i], w = here[2][i];
      float bent0 = hyperbolic_tangent(here[4][i] / STEEPEST), d0 = exponential(STEEPEST * bent0);
      float bent1 = hyperbolic_tangent(here[5][i] / STEEPEST), d1 = exponential(STEEPEST * bent1);
      int outside = (in <= 0) | (in >= 1);
      float h = here[3][i], s = h / w, t = outside ? in : clamped((in - x0) / w);
      float rest = 1 - t, u = t * rest, t2 = t * t, twist = rest - t, bend = d0 + d1 - 2 * s;
      float below = s + bend * u, part = (s * t2 + d0 * u) / below;
      float rise = d0 * rest * rest + d1 * t2 + 2 * s * u, q = s / below, slope = rise * q * q;
      float line = given[i] - (2 * in - 1) * bound, straight = outside ? line : 0;
      float steep = g_value[i] * slope, g_l = g_slope[i] + steep * straight;
      float g = g_value[i] * (2 * bound), g_above = g * h / below;
      float g_below = -2 * g_l / below - g_above * part, g_rise = g_l / rise;
      float g_t = 2 * g_above * s * t + twist * (g_below * bend + g_above * d0) +
                  2 * g_rise * (s * twist - d0 * rest + d1 * t);
      float g_s = g_above * t2 + g_below * (1 - 2 * u) + 2 * g_rise * u + 2 * g_l / s;
      float along = g_t / w;
      g_start[0][i] = -along;
      g_start[1][i] = g;
      g_size[0][i] = -(along * t + g_s / w * s);
      g_size[1][i] = g_s / w + g * part;
      g_bend[0][i] = ((g_above + g_below) * u + g_rise * rest * rest) * d0 * (1 - bent0 * bent0);
      g_bend[1][i] = (g_below * u + g_rise * t2) * d1 * (1 - bent1 * bent1);
      g_given[i] = outside ? steep : along / (2 * bound);
    }
    for (count i = 0; i < n; i++) {
      int32_t b = bin[at + i];
      float *row = g_theta + (at + i) * (3 * bins + 1);
      g_x[(at + i) * step] = g_given[i];
      if (rows == 1) {
        all.bend[b] += g_bend[0][i];
        all.bend[b + 1] += g_bend[1][i];
      } else {
        memset(row + 2 * bins, 0, (bins + 1) * sizeof(float));
        row[2 * bins + b] = g_bend[0][i];
        row[2 * bins + b + 1] = g_bend[1][i];
      }
      /* back through softmax: an earlier bin moves the start, this one the size, and all
         together always sum to one */
      for (int j = 0; j < 2; j++) {
        float start = g_start[j][i], size = g_size[j][i];
        float common = start * (here[j][i] - LEAST * b) + size * (here[2 + j][i] - LEAST);
        start *= free, size *= free;
        if (rows == 1) {
          all.start[j][b] += start;
          all.size[j][b] += size;
          all.common[j] += common;
        } else {
          const float *p = share + (at + i) * 2 * bins + j * bins;
          float *g = row + j * bins;
          for (int32_t e = 0; e < bins; e++)
            g[e] = p[e] * ((e < b ? start : e == b ? size : 0) - common);
        }
      }
    }
  }
  if (rows == 1) gradient(bins, &all, share, g_theta);
}

/* The x for which the spline is y. */
void spline_inverse(count m, count bins, count rows, count step, float bound,
                    const float *restrict y, const float *restrict theta, float *restrict x) {
  float p[2 * MOST], end[2][MOST];
  if (rows == 1) ends(bins, theta, p, end);
  for (count at = 0; at < m; at += GROUP) {
    count n = m - at < GROUP ? m - at : GROUP, row = rows == 1 ? 0 : at;
    group given, inside, here[6], value;
    int32_t found[GROUP];
    for (count i = 0; i < n; i++) {
      given[i] = y[(at + i) * step];
      inside[i] = clamped(given[i] / (2 * bound) + 0.5f);
    }
    find(n, bins, rows, 1, inside, theta + row * (3 * bins + 1), p, 0, end, here, found);
    for (count i = 0; i < n; i++) {
      float in = inside[i], x0 = here[0][i], y0 = here[1][i], w = here[2][i], h = here[3][i];
      float d0 = exponential(STEEPEST * hyperbolic_tangent(here[4][i] / STEEPEST));
      float d1 = exponential(STEEPEST * hyperbolic_tangent(here[5][i] / STEEPEST));
      int outside = (in <= 0) | (in >= 1);
      float s = h / w, part = clamped((in - y0) / h), twist = part * (d0 + d1 - 2 * s);
      float a = s - d0 + twist, b = d0 - twist, c = s * part, root = b * b + 4 * a * c;
      float t = 2 * c / (b + sqrtf(root < 0 ? 0 : root));
      float back = (2 * (x0 + w * t) - 1) * bound, line = given[i] - (2 * in - 1) * bound;
      value[i] = outside ? back + line / (given[i] < 0 ? d0 : d1) : back;
    }
    for (count i = 0; i < n; i++) x[(at + i) * step] = value[i];
  }
}

/* y + b (m, n), then leaky ReLU, in place. */
void leaky_forward(count m, count n, float leak, const float *restrict b, float *restrict y) {
  for (count i = 0; i < m; i++, y += n)
    for (count j = 0; j < n; j++) {
      float sum = y[j] + b[j];
      y[j] = sum > 0 ? sum : leak * sum;
    }
}

/* Back from what that returned: the gradient g (m, n) in place, and that of b. */
void leaky_backward(count m, count n, float leak, const float *restrict y, float *restrict g,
                    float *restrict g_b) {
  memset(g_b, 0, n * sizeof *g_b);
  for (count i = 0; i < m; i++, y += n, g += n)
    for (count j = 0; j < n; j++) g_b[j] += g[j] *= y[j] > 0 ? 1 : leak;
}

/* Losses of the noise z (m, d) under N(0, I), as engines/flow/bases.py has them: means over the
   points of cost(z) − log_det and of −log N(z) − log_det, and the gradient of the first. */
void gaussian(count m, count d, float far, const float *restrict z, const float *restrict log_det,
              float *restrict g_z, float *restrict means) {
  const double constant = 0.5 * d * 1.8378770664093453; /* log 2π */
  double cost = 0, nll = 0;
  for (count i = 0; i < m; i++) {
    float squares = 0;
    for (count j = 0; j < d; j++) squares += z[i * d + j] * z[i * d + j];
    float r = sqrtf(squares < 1e-12f ? 1e-12f : squares), near = r > far ? far : r;
    cost += near * (r - 0.5f * near) + constant - log_det[i];
    nll += 0.5 * squares + constant - log_det[i];
    for (count j = 0; j < d; j++) g_z[i * d + j] = near / r * z[i * d + j] / m;
  }
  means[0] = (float)(cost / m);
  means[1] = (float)(nll / m);
}

/* One move of Adam (Kingma & Ba 2015) for all tensors, after their gradients together are cut to a
   length of at most `clip`; then their moving averages follow by a share `follow`. of[0 … 5] are
   each tensor's gradient, numbers, first and second moment, step and average. */
void adam(count tensors, const count *sizes, float *const (*of)[6], double clip, double rate,
          double beta1, double beta2, double tiny, double follow) {
  double squares = 0;
  for (count k = 0; k < tensors; k++) {
    const float *g = of[k][0];
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (count i = 0; i < sizes[k]; i++) sum += g[i] * g[i];
    squares += sum;
  }
  double ratio = clip / (sqrt(squares) + 1e-6);
  const float cut = ratio > 1 ? 1 : (float)ratio, b1 = (float)(1 - beta1), b2 = (float)beta2;
  const float rest = (float)(1 - beta2), share = (float)follow, least = (float)tiny;
  for (count k = 0; k < tensors; k++) {
    float *restrict p = of[k][1], *restrict m = of[k][2], *restrict v = of[k][3];
    float *restrict mean = of[k][5];
    const float *restrict g = of[k][0];
    double t = *of[k][4] += 1;
    const float size = (float)(rate / (1 - pow(beta1, t)));
    const float root = (float)sqrt(1 - pow(beta2, t));
    for (count i = 0; i < sizes[k]; i++) {
      float slope = g[i] * cut;
      m[i] += b1 * (slope - m[i]);
      v[i] = b2 * v[i] + rest * slope * slope;
      p[i] -= size * m[i] / (sqrtf(v[i]) / root + least);
      mean[i] += share * (p[i] - mean[i]);
    }
  }
}

/* All of it once on made-up numbers, before anybody relies on it: whether this processor has the
   instructions, and whether the way back leads back. 1 if so. */
int trial(void) {
  enum { M = 100, K = 5, P = 3 * K + 1 };
  static float x[M], theta[M * P], y[M], back[M], log_slope[M], share[M * 2 * K], place[6 * M];
  static float ones[M], none[M], g_x[M], g_theta[M * P];
  static int32_t bin[M];
  for (int rows = 1; rows <= M; rows += M - 1) {
    for (int i = 0; i < M; i++) x[i] = -4 + 8.0f * i / M, log_slope[i] = none[i] = 0, ones[i] = 1;
    for (int i = 0; i < rows * P; i++) theta[i] = (i * 37 % 101) / 50.0f - 1;
    spline_forward(M, K, rows, 1, 3, x, theta, y, 1, log_slope, share, place, bin);
    spline_inverse(M, K, rows, 1, 3, y, theta, back);
    spline_backward(M, K, rows, 1, 3, x, share, place, bin, ones, 1, none, g_x, g_theta);
    for (int i = 0; i < M; i++)
      if (!(fabsf(back[i] - x[i]) < 1e-3f) || !(fabsf(logf(g_x[i]) - log_slope[i]) < 1e-3f)) return 0;
  }
  return 1;
}
