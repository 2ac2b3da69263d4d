// The random number generator of torch on a CPU, MT19937. A block draws from one stream with all its threads and gets
// exactly the numbers of torch.rand.
#pragma once
#include "portable.cuh"
#include "../../kernel/mt19937.hpp"

struct Mersenne {
  static constexpr int WORDS = mt19937::WORDS, SHIFT = mt19937::SHIFT;
  unsigned* state;  // shared, WORDS
  unsigned* next;   // shared, WORDS: the next state is made beside the current one
  int used;         // words of the state that have been drawn; the same in every thread

  DEVICE void seed(unsigned value) {
    if (thread() == 0) {
      state[0] = value;
      for (int i = 1; i < WORDS; ++i) {
        state[i] = mt19937::seed_word(state[i - 1], static_cast<unsigned>(i));
      }
    }
    used = WORDS;
    barrier();
  }

  // Most new words need the new word SHIFT before them. So they are made in three parts, each from words of the part
  // before. The thread that needs a new word has made it itself, except for the last word, which needs the first.
  DEVICE void twist() {
    constexpr int PART = WORDS - SHIFT;  // 227
    for (int i = thread(); i < PART; i += threads())
      next[i] = state[i + SHIFT] ^ mt19937::twist(state[i], state[i + 1]);
    for (int i = PART + thread(); i < 2 * PART; i += threads()) {
      next[i] = next[i - PART] ^ mt19937::twist(state[i], state[i + 1]);
    }
    barrier();
    for (int i = 2 * PART + thread(); i < WORDS; i += threads()) {
      const unsigned following = i + 1 < WORDS ? state[i + 1] : next[0];
      next[i] = next[i - PART] ^ mt19937::twist(state[i], following);
    }
    barrier();
    unsigned* old = state;
    state = next;
    next = old;
    used = 0;
  }

  // A uniform float in [0, 1) with 24 bits, as torch makes it from a word.
  DEVICE static float uniform(unsigned word) {
    return static_cast<float>(mt19937::temper(word) & 0xffffffu) * (1.0f / 16777216.0f);
  }

  // Draw n numbers; bit j of `keep` tells whether number j is at least p. A thread makes whole bytes.
  DEVICE void draw_keep(int n, float p, unsigned char* keep) {
    for (int done = 0; done < n;) {
      if (used == WORDS) twist();
      const int take = min(WORDS - used, n - done), stop = done + take;
      for (int byte = done / 8 + thread(); byte * 8 < stop; byte += threads()) {
        unsigned bits = byte * 8 < done ? keep[byte] : 0u;  // its first bits come from the state before
        for (int bit = 0; bit < 8; ++bit) {
          const int j = byte * 8 + bit;
          if (j >= done && j < stop && uniform(state[used + j - done]) >= p) bits |= 1u << bit;
        }
        keep[byte] = static_cast<unsigned char>(bits);
      }
      used += take;
      done = stop;
      // No barrier is needed: a twist has its own, and readers of the bits wait for the images of the tile first.
    }
  }
};
