// 2x2 max-pooling as a stage of its own, for networks with an activation before it.
#pragma once
#include "vectors.hpp"

namespace zoo {

template <int C_, int PITCH_, int H_, int W_> struct Pooling {
  static constexpr int C = C_, PITCH = PITCH_, H = H_, W = W_, O = C_;
  static constexpr bool BIAS = false, LINEAR = false;
  static constexpr int KH = 1, KW = 1, HC = H, WC = W, PATCH = 0;
  static constexpr int LANES = lanes_for(O), OP = round_up(O, LANES);
  static constexpr int HO = H / 2, WO = W / 2, PLACES = HO * WO, INPUTS = H * W * PITCH, OUTPUTS = PLACES * OP;
  static constexpr int PARAMETERS = 0, TABLE = 0, SPREAD = 0, COPIES = 0;

  struct Pass {
    const float *x, *table;
    float* y;
    int32_t* winner;
  };
  struct Noise {
    const float *squares, *table, *draws;
    float* slope;
  };

  template <bool> static void forward(const Pass& pass, const Noise&) {
    for (int place = 0; place < PLACES; place++) {
      const int origin = (place / WO * 2 * W + place % WO * 2) * PITCH;
      for (int c = 0; c < C; c++) {
        int best = origin + c;
        for (int cell : {origin + PITCH + c, origin + W * PITCH + c, origin + (W + 1) * PITCH + c})
          best = pass.x[cell] > pass.x[best] ? cell : best;
        pass.y[place * OP + c] = pass.x[best];
        pass.winner[place * OP + c] = best;
      }
    }
  }

  static void input_gradient(const float*, const float* g, const int32_t* winner, float* dx) {
    std::memset(dx, 0, sizeof(float) * INPUTS);
    for (int place = 0; place < PLACES; place++)
      for (int c = 0; c < C; c++) dx[winner[place * OP + c]] = g[place * OP + c];
  }

  static const float* for_backward(const float* x, float*) { return x; }
  static void parameter_gradient(const float*, const float*, const int32_t*, float*) {}
  static void fill_table(const float*, float*) {}
  static void fill_spread(const float*, float*) {}
  static void clear_idle(float*) {}
  template <class F> static void each_weight(const F&) {}
  static constexpr int bias_at(int) { return 0; }
};

}  // namespace zoo
