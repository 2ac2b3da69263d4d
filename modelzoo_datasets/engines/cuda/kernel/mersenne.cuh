// The generator of torch's CPU: mt19937, 624 words of state. A block draws from one stream with all of its threads, and
// gets the very numbers that torch.rand gives.
#pragma once
#include "portable.cuh"

struct Mersenne {
    static constexpr int kWords = 624, kShift = 397;
    unsigned* state;  // shared, kWords
    unsigned* next;   // shared, kWords: a state is made beside the one that it is made from
    int used;         // words of the state that are drawn already; the same in every thread

    DEVICE static unsigned mixed(unsigned upper, unsigned lower) {
        const unsigned both = (upper & 0x80000000u) | (lower & 0x7fffffffu);
        return (both >> 1) ^ ((lower & 1u) ? 0x9908b0dfu : 0u);
    }

    DEVICE void seed(unsigned value) {
        if (thread() == 0) {
            state[0] = value;
            for (int i = 1; i < kWords; ++i) {
                state[i] = 1812433253u * (state[i - 1] ^ (state[i - 1] >> 30)) + static_cast<unsigned>(i);
            }
        }
        used = kWords;
        barrier();
    }

    // A word needs the one kShift further on, which for most is a new one: so in three parts, each of new words that
    // need those of the part before. The thread that needs a new word is the one that made it, but for the last word,
    // which needs the first.
    DEVICE void twist() {
        constexpr int kPart = kWords - kShift;  // 227
        for (int i = thread(); i < kPart; i += threads()) next[i] = state[i + kShift] ^ mixed(state[i], state[i + 1]);
        for (int i = kPart + thread(); i < 2 * kPart; i += threads()) {
            next[i] = next[i - kPart] ^ mixed(state[i], state[i + 1]);
        }
        barrier();
        for (int i = 2 * kPart + thread(); i < kWords; i += threads()) {
            const unsigned following = i + 1 < kWords ? state[i + 1] : next[0];
            next[i] = next[i - kPart] ^ mixed(state[i], following);
        }
        barrier();
        unsigned* old = state;
        state = next;
        next = old;
        used = 0;
    }

    // Uniform in [0, 1), of 24 bits, as torch makes a float of a word.
    DEVICE static float uniform(unsigned word) {
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c5680u;
        word ^= (word << 15) & 0xefc60000u;
        word ^= word >> 18;
        return static_cast<float>(word & 0xffffffu) * (1.0f / 16777216.0f);
    }

    // Draw n numbers; bit j of `keep` says whether the j-th is at least p. A thread makes whole bytes.
    DEVICE void draw_keep(int n, float p, unsigned char* keep) {
        for (int done = 0; done < n;) {
            if (used == kWords) twist();
            const int take = min(kWords - used, n - done), stop = done + take;
            for (int byte = done / 8 + thread(); byte * 8 < stop; byte += threads()) {
                unsigned bits = byte * 8 < done ? keep[byte] : 0u;  // begun with words of the state before
                for (int bit = 0; bit < 8; ++bit) {
                    const int j = byte * 8 + bit;
                    if (j >= done && j < stop && uniform(state[used + j - done]) >= p) bits |= 1u << bit;
                }
                keep[byte] = static_cast<unsigned char>(bits);
            }
            used += take;
            done = stop;
            // No barrier: a twist has some, and whoever reads the bits waits for the images of the tile first.
        }
    }
};
