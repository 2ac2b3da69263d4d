// One stage of a chain, forward and backward for the images of a tile: a convolution, 2x2 max-pooling, or both, then an
// activation and dropout. A linear layer is a convolution over its whole input.
//
// S holds the sizes as constants (see block_kernel.py): those of the input (CHANNELS, HEIGHT, WIDTH), of the output
// (UNITS, ROWS, COLUMNS, OUTPUTS per image) and of the kernel (KERNEL_HEIGHT, KERNEL_WIDTH), its parts (CONVOLVES,
// BIAS, POOLS), the units or channels per thread (UNITS_PER_THREAD, CHANNELS_PER_THREAD), the SPLITS of sums over
// images, and the offsets of its arrays. Weights are in the order (channel, row, column, unit); biases follow.
#pragma once
#include "activations.cuh"
#include "portable.cuh"

// The arrays of one block. Those of a stage hold all images of the tile, each (unit, row, column).
struct Tile {
  float* numbers;          // shared; stages know their offsets
  unsigned char* winners;  // shared: the cell of its 2x2 window that won, 0 to 3
  float* weights;          // shared, of the whole model
  float* gradients;        // shared, in the order of the weights
  float* scratch;          // shared: partial sums over images
  int images;              // images in the tile; fewer in the last tile of a batch
};

// The options of one stage of one model, which may differ between the models of a launch.
struct StageOptions {
  int activation;
  float scale;                // 1 / (1 - p) with dropout, else 1
  const unsigned char* keep;  // shared, one bit per output, from the first image of the tile on; null without dropout
  int first_bit;
};

DEVICE bool is_kept(const StageOptions& options, int output) {
  const int bit = options.first_bit + output;
  return options.keep == nullptr || (options.keep[bit >> 3] >> (bit & 7)) & 1;
}

// The outputs of some units at one place before pooling: one cell, or the four cells of a window.
template <class S> struct Cells {
  static constexpr int SIDE = S::POOLS ? 2 : 1;
  static constexpr int UNITS = S::UNITS_PER_THREAD;
  float value[SIDE][SIDE][UNITS];
};

template <class S>
DEVICE void convolve(Cells<S>& cells, const float* input, const float* weights, const float* biases) {
  constexpr int SIDE = Cells<S>::SIDE, UNITS = Cells<S>::UNITS;
  for (int down = 0; down < SIDE; ++down)
    for (int across = 0; across < SIDE; ++across)
      for (int u = 0; u < UNITS; ++u) cells.value[down][across][u] = 0.0f;
  for (int channel = 0; channel < S::CHANNELS; ++channel) {
#pragma unroll
    for (int y = 0; y < S::KERNEL_HEIGHT + SIDE - 1; ++y) {
      float row[S::KERNEL_WIDTH + SIDE - 1];  // read once for all cells and units
#pragma unroll
      for (int x = 0; x < S::KERNEL_WIDTH + SIDE - 1; ++x) {
        row[x] = input[(channel * S::HEIGHT + y) * S::WIDTH + x];
      }
#pragma unroll
      for (int down = 0; down < SIDE; ++down) {
        const int tall = y - down;
        if (tall < 0 || tall >= S::KERNEL_HEIGHT) continue;
#pragma unroll
        for (int wide = 0; wide < S::KERNEL_WIDTH; ++wide) {
          const float* w = weights + ((channel * S::KERNEL_HEIGHT + tall) * S::KERNEL_WIDTH + wide) * S::UNITS;
#pragma unroll
          for (int u = 0; u < UNITS; ++u) {
#pragma unroll
            for (int across = 0; across < SIDE; ++across) {
              cells.value[down][across][u] += row[wide + across] * w[u];
            }
          }
        }
      }
    }
  }
  if (!S::BIAS) return;
  for (int down = 0; down < SIDE; ++down)
    for (int across = 0; across < SIDE; ++across)
      for (int u = 0; u < UNITS; ++u) cells.value[down][across][u] += biases[u];
}

template <class S> DEVICE void forward(const Tile& tile, const StageOptions& options) {
  constexpr int SIDE = Cells<S>::SIDE, UNITS = Cells<S>::UNITS;
  constexpr int PLACES = S::ROWS * S::COLUMNS, GROUPS = S::UNITS / UNITS;
  const float* weights = tile.weights + S::WEIGHTS_OFFSET;
  for (int i = thread(); i < tile.images * GROUPS * PLACES; i += threads()) {
    const int place = i % PLACES, unit = i / PLACES % GROUPS * UNITS, image = i / (PLACES * GROUPS);
    const int top = place / S::COLUMNS * SIDE, left = place % S::COLUMNS * SIDE;
    const float* input = tile.numbers + S::INPUT_OFFSET + image * S::INPUTS;
    Cells<S> cells;
    if constexpr (S::CONVOLVES) {
      convolve<S>(cells, input + top * S::WIDTH + left, weights + unit, weights + S::WEIGHTS + unit);
    } else {
      const float* own = input + (unit * S::HEIGHT + top) * S::WIDTH + left;
      for (int down = 0; down < SIDE; ++down)
        for (int across = 0; across < SIDE; ++across) {
          cells.value[down][across][0] = own[down * S::WIDTH + across];
        }
    }
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
      float best = cells.value[0][0][u];
      int winner = 0;
      for (int cell = 1; cell < SIDE * SIDE; ++cell) {  // the first of equal values, the last of NaNs, as torch
        const float value = cells.value[cell / 2][cell % SIDE][u];
        if (value > best || value != value) best = value, winner = cell;
      }
      const Activated active = activate(options.activation, best);
      const int output = image * S::OUTPUTS + (unit + u) * PLACES + place;
      const float factor = is_kept(options, output) ? options.scale : 0.0f;
      tile.numbers[S::OUTPUT_OFFSET + output] = active.value * factor;
      tile.numbers[S::SLOPE_OFFSET + output] = active.slope * factor;
      if (S::POOLS) tile.winners[S::WINNERS_OFFSET + output] = static_cast<unsigned char>(winner);
    }
  }
  barrier();
}

// Add the gradient of the weights and biases of a stage; only the winner of a window has a gradient. One thread sums a
// row of a kernel over every SPLITS-th place of the tile; then the partial sums are added up in their order.
template <class S> DEVICE void sum_weight_gradients(const Tile& tile) {
  constexpr int PLACES = S::ROWS * S::COLUMNS, ROWS_OF_KERNELS = S::UNITS * S::CHANNELS * S::KERNEL_HEIGHT;
  constexpr int NUMBERS = S::WEIGHTS + (S::BIAS ? S::UNITS : 0);
  for (int i = thread(); i < ROWS_OF_KERNELS * S::SPLITS; i += threads()) {
    const int tall = i % S::KERNEL_HEIGHT, channel = i / S::KERNEL_HEIGHT % S::CHANNELS;
    const int unit = i / (S::KERNEL_HEIGHT * S::CHANNELS) % S::UNITS, split = i / ROWS_OF_KERNELS;
    float sums[S::KERNEL_WIDTH], bias = 0.0f;
#pragma unroll
    for (int wide = 0; wide < S::KERNEL_WIDTH; ++wide) sums[wide] = 0.0f;
    for (int p = split; p < tile.images * PLACES; p += S::SPLITS) {
      const int image = p / PLACES, place = p % PLACES;
      const int output = image * S::OUTPUTS + unit * PLACES + place;
      const float delta = tile.numbers[S::SLOPE_OFFSET + output];
      if (delta == 0.0f) continue;
      int y = place / S::COLUMNS, x = place % S::COLUMNS;
      if (S::POOLS) {
        const int winner = tile.winners[S::WINNERS_OFFSET + output];
        y = 2 * y + winner / 2, x = 2 * x + winner % 2;
      }
      const float* input = tile.numbers + S::INPUT_OFFSET + image * S::INPUTS;
      const float* row = input + (channel * S::HEIGHT + y + tall) * S::WIDTH + x;
#pragma unroll
      for (int wide = 0; wide < S::KERNEL_WIDTH; ++wide) sums[wide] += delta * row[wide];
      bias += delta;
    }
    float* into = S::SPLITS > 1 ? tile.scratch + split * NUMBERS : tile.gradients + S::WEIGHTS_OFFSET;
#pragma unroll
    for (int wide = 0; wide < S::KERNEL_WIDTH; ++wide) {
      float& sum = into[((channel * S::KERNEL_HEIGHT + tall) * S::KERNEL_WIDTH + wide) * S::UNITS + unit];
      sum = S::SPLITS > 1 ? sums[wide] : sum + sums[wide];
    }
    if (S::BIAS && channel == 0 && tall == 0) {
      float& sum = into[S::WEIGHTS + unit];
      sum = S::SPLITS > 1 ? bias : sum + bias;
    }
  }
  if constexpr (S::SPLITS > 1) {
    barrier();
    for (int i = thread(); i < NUMBERS; i += threads()) {
      float sum = 0.0f;
      for (int split = 0; split < S::SPLITS; ++split) sum += tile.scratch[split * NUMBERS + i];
      tile.gradients[S::WEIGHTS_OFFSET + i] += sum;
    }
  }
}

// Sum the gradient of some channels of the input at (y, x), from every window whose winner reaches this place.
template <class S>
DEVICE void sum_input_gradients(const Tile& tile, int image, int channel, int y, int x, float* sums) {
  constexpr int SIDE = Cells<S>::SIDE, PLACES = S::ROWS * S::COLUMNS;
  const int low = S::KERNEL_HEIGHT + SIDE - 2,
            high = S::KERNEL_WIDTH + SIDE - 2;  // how far before (y, x) a window can begin
  const int first_row = y > low ? (y - low + SIDE - 1) / SIDE : 0, last_row = min(y / SIDE, S::ROWS - 1);
  const int first_column = x > high ? (x - high + SIDE - 1) / SIDE : 0, last_column = min(x / SIDE, S::COLUMNS - 1);
  const float* weights = tile.weights + S::WEIGHTS_OFFSET + channel * S::KERNEL_HEIGHT * S::KERNEL_WIDTH * S::UNITS;
  for (int unit = 0; unit < S::UNITS; ++unit) {
    for (int row = first_row; row <= last_row; ++row) {
      for (int column = first_column; column <= last_column; ++column) {
        const int output = image * S::OUTPUTS + unit * PLACES + row * S::COLUMNS + column;
        const float delta = tile.numbers[S::SLOPE_OFFSET + output];
        if (delta == 0.0f) continue;
        int tall = y - SIDE * row, wide = x - SIDE * column;
        if (S::POOLS) {
          const int winner = tile.winners[S::WINNERS_OFFSET + output];
          tall -= winner / 2, wide -= winner % 2;
          if (tall < 0 || tall >= S::KERNEL_HEIGHT || wide < 0 || wide >= S::KERNEL_WIDTH) continue;
        }
#pragma unroll
        for (int c = 0; c < S::CHANNELS_PER_THREAD; ++c) {
          sums[c] += delta * weights[((c * S::KERNEL_HEIGHT + tall) * S::KERNEL_WIDTH + wide) * S::UNITS + unit];
        }
      }
    }
  }
}

// Turn the slopes of the stage before into its deltas, in place: multiply them with the gradients of its outputs.
template <class S> DEVICE void push_back(const Tile& tile) {
  constexpr int PER_THREAD = S::CHANNELS_PER_THREAD, GROUPS = S::CHANNELS / PER_THREAD;
  constexpr int AREA = S::HEIGHT * S::WIDTH;
  for (int i = thread(); i < tile.images * GROUPS * AREA; i += threads()) {
    const int place = i % AREA, channel = i / AREA % GROUPS * PER_THREAD, image = i / (AREA * GROUPS);
    const int y = place / S::WIDTH, x = place % S::WIDTH;
    float sums[PER_THREAD];
#pragma unroll
    for (int c = 0; c < PER_THREAD; ++c) sums[c] = 0.0f;
    if constexpr (S::CONVOLVES) {
      sum_input_gradients<S>(tile, image, channel, y, x, sums);
    } else if (y / 2 < S::ROWS && x / 2 < S::COLUMNS) {  // PER_THREAD is 1
      const int output = image * S::OUTPUTS + (channel * S::ROWS + y / 2) * S::COLUMNS + x / 2;
      if (tile.winners[S::WINNERS_OFFSET + output] == y % 2 * 2 + x % 2)
        sums[0] = tile.numbers[S::SLOPE_OFFSET + output];
    }
    float* slopes = tile.numbers + S::INPUT_SLOPE_OFFSET + image * S::INPUTS + channel * AREA + place;
#pragma unroll
    for (int c = 0; c < PER_THREAD; ++c) slopes[c * AREA] *= sums[c];
  }
}

template <class S> DEVICE void backward(const Tile& tile) {
  if constexpr (S::CONVOLVES) sum_weight_gradients<S>(tile);
  if constexpr (S::NUMBER > 0) push_back<S>(tile);
  barrier();
}
