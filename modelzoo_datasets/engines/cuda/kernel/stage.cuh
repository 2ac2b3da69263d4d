// One stage of a chain: convolution, or 2x2 max-pooling, or both, then activation and dropout; forward and backward for
// the images of a tile. A linear layer is a convolution over its whole input.
//
// S holds the sizes as constants (see blocks.py): of the input (kChannels, kHeight, kWidth), of the output (kUnits,
// kRows, kColumns, kOutputs of one image), the kernel (kTall, kWide), what there is (kConvolves, kBias, kPools), how
// many units or channels one thread does at a time (kUnitsAtOnce, kChannelsAtOnce), kSplits of sums over images, and
// where its arrays begin. Weights are in the order (channel, row, column, unit), biases follow.
#pragma once
#include "activations.cuh"
#include "portable.cuh"

// What one block works on. Arrays of a stage hold all images of the tile, each (unit, row, column).
struct Tile {
    float* numbers;          // shared; stages know their offsets
    unsigned char* winners;  // shared: which cell of its 2x2 window won, 0 to 3
    float* weights;          // shared, of the whole model
    float* gradients;        // shared, as the weights
    float* scratch;          // shared: sums of parts of the images
    int images;              // in the tile; fewer in the last one of a batch
};

// How one stage of one model is: what may differ between models of a launch.
struct Style {
    int activation;
    float scale;                // 1 / (1 - p) with dropout, else 1
    const unsigned char* keep;  // shared, a bit per output of the tile's first image and on; null without dropout
    int first_bit;
};

DEVICE bool kept(const Style& style, int output) {
    const int bit = style.first_bit + output;
    return style.keep == nullptr || (style.keep[bit >> 3] >> (bit & 7)) & 1;
}

// Outputs of some units at one place, before the winner is chosen: one cell, or the four of a window.
template <class S>
struct Cells {
    static constexpr int kSide = S::kPools ? 2 : 1;
    static constexpr int kUnits = S::kUnitsAtOnce;
    float value[kSide][kSide][kUnits];
};

template <class S>
DEVICE void convolve(Cells<S>& cells, const float* input, const float* weights, const float* biases) {
    constexpr int kSide = Cells<S>::kSide, kUnits = Cells<S>::kUnits;
    for (int down = 0; down < kSide; ++down)
        for (int across = 0; across < kSide; ++across)
            for (int u = 0; u < kUnits; ++u) cells.value[down][across][u] = 0.0f;
    for (int channel = 0; channel < S::kChannels; ++channel) {
#pragma unroll
        for (int y = 0; y < S::kTall + kSide - 1; ++y) {
            float row[S::kWide + kSide - 1];  // read once for all cells and units
#pragma unroll
            for (int x = 0; x < S::kWide + kSide - 1; ++x) {
                row[x] = input[(channel * S::kHeight + y) * S::kWidth + x];
            }
#pragma unroll
            for (int down = 0; down < kSide; ++down) {
                const int tall = y - down;
                if (tall < 0 || tall >= S::kTall) continue;
#pragma unroll
                for (int wide = 0; wide < S::kWide; ++wide) {
                    const float* w = weights + ((channel * S::kTall + tall) * S::kWide + wide) * S::kUnits;
#pragma unroll
                    for (int u = 0; u < kUnits; ++u) {
#pragma unroll
                        for (int across = 0; across < kSide; ++across) {
                            cells.value[down][across][u] += row[wide + across] * w[u];
                        }
                    }
                }
            }
        }
    }
    if (!S::kBias) return;
    for (int down = 0; down < kSide; ++down)
        for (int across = 0; across < kSide; ++across)
            for (int u = 0; u < kUnits; ++u) cells.value[down][across][u] += biases[u];
}

template <class S>
DEVICE void forward(const Tile& tile, const Style& style) {
    constexpr int kSide = Cells<S>::kSide, kUnits = Cells<S>::kUnits;
    constexpr int kPlaces = S::kRows * S::kColumns, kGroups = S::kUnits / kUnits;
    const float* weights = tile.weights + S::kWeightsAt;
    for (int i = thread(); i < tile.images * kGroups * kPlaces; i += threads()) {
        const int place = i % kPlaces, unit = i / kPlaces % kGroups * kUnits, image = i / (kPlaces * kGroups);
        const int top = place / S::kColumns * kSide, left = place % S::kColumns * kSide;
        const float* input = tile.numbers + S::kInputAt + image * S::kInputs;
        Cells<S> cells;
        if constexpr (S::kConvolves) {
            convolve<S>(cells, input + top * S::kWidth + left, weights + unit, weights + S::kWeights + unit);
        } else {
            const float* own = input + (unit * S::kHeight + top) * S::kWidth + left;
            for (int down = 0; down < kSide; ++down)
                for (int across = 0; across < kSide; ++across) {
                    cells.value[down][across][0] = own[down * S::kWidth + across];
                }
        }
#pragma unroll
        for (int u = 0; u < kUnits; ++u) {
            float best = cells.value[0][0][u];
            int winner = 0;
            for (int cell = 1; cell < kSide * kSide; ++cell) {  // the first of equals; of NaNs the last, as torch
                const float value = cells.value[cell / 2][cell % kSide][u];
                if (value > best || value != value) best = value, winner = cell;
            }
            const Activated active = activated(style.activation, best);
            const int output = image * S::kOutputs + (unit + u) * kPlaces + place;
            const float factor = kept(style, output) ? style.scale : 0.0f;
            tile.numbers[S::kOutputAt + output] = active.value * factor;
            tile.numbers[S::kSlopeAt + output] = active.slope * factor;
            if (S::kPools) tile.winners[S::kWinnersAt + output] = static_cast<unsigned char>(winner);
        }
    }
    barrier();
}

// The gradient of a stage's weights and biases, added to what is there: of every window only the winner counts. One
// thread sums a row of a kernel over every kSplits-th place of the tile; then the splits are added up, in their order.
template <class S>
DEVICE void sum_weight_gradients(const Tile& tile) {
    constexpr int kPlaces = S::kRows * S::kColumns, kRowsOfKernels = S::kUnits * S::kChannels * S::kTall;
    constexpr int kNumbers = S::kWeights + (S::kBias ? S::kUnits : 0);
    for (int i = thread(); i < kRowsOfKernels * S::kSplits; i += threads()) {
        const int tall = i % S::kTall, channel = i / S::kTall % S::kChannels;
        const int unit = i / (S::kTall * S::kChannels) % S::kUnits, split = i / kRowsOfKernels;
        float sums[S::kWide], bias = 0.0f;
#pragma unroll
        for (int wide = 0; wide < S::kWide; ++wide) sums[wide] = 0.0f;
        for (int p = split; p < tile.images * kPlaces; p += S::kSplits) {
            const int image = p / kPlaces, place = p % kPlaces;
            const int output = image * S::kOutputs + unit * kPlaces + place;
            const float delta = tile.numbers[S::kSlopeAt + output];
            if (delta == 0.0f) continue;
            int y = place / S::kColumns, x = place % S::kColumns;
            if (S::kPools) {
                const int winner = tile.winners[S::kWinnersAt + output];
                y = 2 * y + winner / 2, x = 2 * x + winner % 2;
            }
            const float* input = tile.numbers + S::kInputAt + image * S::kInputs;
            const float* row = input + (channel * S::kHeight + y + tall) * S::kWidth + x;
#pragma unroll
            for (int wide = 0; wide < S::kWide; ++wide) sums[wide] += delta * row[wide];
            bias += delta;
        }
        float* into = S::kSplits > 1 ? tile.scratch + split * kNumbers : tile.gradients + S::kWeightsAt;
#pragma unroll
        for (int wide = 0; wide < S::kWide; ++wide) {
            float& sum = into[((channel * S::kTall + tall) * S::kWide + wide) * S::kUnits + unit];
            sum = S::kSplits > 1 ? sums[wide] : sum + sums[wide];
        }
        if (S::kBias && channel == 0 && tall == 0) {
            float& sum = into[S::kWeights + unit];
            sum = S::kSplits > 1 ? bias : sum + bias;
        }
    }
    if constexpr (S::kSplits > 1) {
        barrier();
        for (int i = thread(); i < kNumbers; i += threads()) {
            float sum = 0.0f;
            for (int split = 0; split < S::kSplits; ++split) sum += tile.scratch[split * kNumbers + i];
            tile.gradients[S::kWeightsAt + i] += sum;
        }
    }
}

// What a channel of the input gets at (y, x), for some channels at a time: from every window over it whose winner
// reaches it.
template <class S>
DEVICE void sum_input_gradients(const Tile& tile, int image, int channel, int y, int x, float* sums) {
    constexpr int kSide = Cells<S>::kSide, kPlaces = S::kRows * S::kColumns;
    const int low = S::kTall + kSide - 2, high = S::kWide + kSide - 2;  // how far before a window may begin
    const int first_row = y > low ? (y - low + kSide - 1) / kSide : 0, last_row = min(y / kSide, S::kRows - 1);
    const int first_column = x > high ? (x - high + kSide - 1) / kSide : 0, last_column = min(x / kSide, S::kColumns - 1);
    const float* weights = tile.weights + S::kWeightsAt + channel * S::kTall * S::kWide * S::kUnits;
    for (int unit = 0; unit < S::kUnits; ++unit) {
        for (int row = first_row; row <= last_row; ++row) {
            for (int column = first_column; column <= last_column; ++column) {
                const int output = image * S::kOutputs + unit * kPlaces + row * S::kColumns + column;
                const float delta = tile.numbers[S::kSlopeAt + output];
                if (delta == 0.0f) continue;
                int tall = y - kSide * row, wide = x - kSide * column;
                if (S::kPools) {
                    const int winner = tile.winners[S::kWinnersAt + output];
                    tall -= winner / 2, wide -= winner % 2;
                    if (tall < 0 || tall >= S::kTall || wide < 0 || wide >= S::kWide) continue;
                }
#pragma unroll
                for (int c = 0; c < S::kChannelsAtOnce; ++c) {
                    sums[c] += delta * weights[((c * S::kTall + tall) * S::kWide + wide) * S::kUnits + unit];
                }
            }
        }
    }
}

// Turns the slopes of the stage before into its deltas, in place: what its outputs are multiplied with backwards.
template <class S>
DEVICE void push_back(const Tile& tile) {
    constexpr int kAtOnce = S::kChannelsAtOnce, kGroups = S::kChannels / kAtOnce;
    constexpr int kArea = S::kHeight * S::kWidth;
    for (int i = thread(); i < tile.images * kGroups * kArea; i += threads()) {
        const int place = i % kArea, channel = i / kArea % kGroups * kAtOnce, image = i / (kArea * kGroups);
        const int y = place / S::kWidth, x = place % S::kWidth;
        float sums[kAtOnce];
#pragma unroll
        for (int c = 0; c < kAtOnce; ++c) sums[c] = 0.0f;
        if constexpr (S::kConvolves) {
            sum_input_gradients<S>(tile, image, channel, y, x, sums);
        } else if (y / 2 < S::kRows && x / 2 < S::kColumns) {  // kAtOnce is 1
            const int output = image * S::kOutputs + (channel * S::kRows + y / 2) * S::kColumns + x / 2;
            if (tile.winners[S::kWinnersAt + output] == y % 2 * 2 + x % 2) sums[0] = tile.numbers[S::kSlopeAt + output];
        }
        float* slopes = tile.numbers + S::kInputSlopeAt + image * S::kInputs + channel * kArea + place;
#pragma unroll
        for (int c = 0; c < kAtOnce; ++c) slopes[c * kArea] *= sums[c];
    }
}

template <class S>
DEVICE void backward(const Tile& tile) {
    if constexpr (S::kConvolves) sum_weight_gradients<S>(tile);
    if constexpr (S::kNumber > 0) push_back<S>(tile);
    barrier();
}
