// The arithmetic of the Mersenne Twister MT19937, shared by the native kernel and the CUDA kernel.
//
// Every function works on single 32-bit words; the kernels decide where the words lie and which thread makes which.
// Before including this header, DEVICE may be defined as the qualifiers of the functions.
#pragma once

#ifndef DEVICE
#define DEVICE inline
#endif

namespace mt19937 {

constexpr int WORDS = 624, SHIFT = 397;  // words of the state; distance of the word that a new one depends on

// Word i of the first state, from the word before it; word 0 is the seed.
DEVICE unsigned seed_word(unsigned previous, unsigned i) { return 1812433253u * (previous ^ (previous >> 30)) + i; }

// Word i of the next state is word i + SHIFT of the sequence, xor this function of words i and i + 1.
DEVICE unsigned twist(unsigned word, unsigned following) {
  const unsigned mixed = (word & 0x80000000u) | (following & 0x7fffffffu);
  const unsigned odd = 0u - (following & 1u);  // all ones or zero
  return (mixed >> 1) ^ (odd & 0x9908b0dfu);
}

// The random number of a word of the state.
DEVICE unsigned temper(unsigned word) {
  word ^= word >> 11;
  word ^= (word << 7) & 0x9d2c5680u;
  word ^= (word << 15) & 0xefc60000u;
  return word ^ (word >> 18);
}

}  // namespace mt19937
