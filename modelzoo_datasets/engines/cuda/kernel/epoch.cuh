// One epoch of many models: a block trains one whole model and never communicates with another block, so a result
// depends on its model alone. Weights and gradients stay in shared memory, and the state of the optimizer too if it
// fits.
//
// The generated header (block_kernel.py) defines the stages, `for_each_stage`, `for_each_stage_backwards` and `Sizes`.
#pragma once
#include "mersenne.cuh"
#include "stage.cuh"

// Every field has 8 bytes, in the order in which block_trainer.py fills them. M models, S stages, P weights.
struct Epoch {
  const unsigned char* pixels;  // (images, channels, height, width)
  const int* labels;            // (images,)
  const int* orders;            // (M, images)
  const float* table;           // (channels, 256) normalized value of each pixel value
  float* weights;               // (M, P) in the kernel's order
  float* first;                 // (M, P) momentum, or Adam's first moment
  float* second;                // (M, P)
  const float* rates;           // (plans, steps, 5); see optimizers.py
  const int* plans;             // (M,) index of the plan of a model
  const int* adaptive;          // (M,) 0 for SGD, 1 for Adam and AdamW
  const int* activations;       // (M, S)
  const float* dropouts;        // (M, S)
  const int* seeds;             // (M,) for the dropout masks
  double* losses;               // (M,) sum over the images
  long long* correct;           // (M,)
  long long images;
  long long batch;
};

// The state of the optimizer of one model.
struct Optimizer {
  float *first, *second;
  bool adaptive;
};

DEVICE void optimize(float* weights, float* gradients, const Optimizer& optimizer, const float* rates) {
  constexpr float BETA2 = 0.999f, ONE_MINUS_BETA2 = 0.001f, EPSILON = 1e-8f;
  const float l2 = rates[0], shrink = rates[1], momentum = rates[2], lr = rates[3], root = rates[4];
  for (int i = thread(); i < Sizes::PARAMETERS; i += threads()) {
    float w = weights[i], m = optimizer.first[i];
    const float g = gradients[i] + l2 * w;
    gradients[i] = 0.0f;
    if (optimizer.adaptive) {
      w *= shrink;
      m += momentum * (g - m);
      const float v = BETA2 * optimizer.second[i] + ONE_MINUS_BETA2 * g * g;
      optimizer.second[i] = v;
      w -= lr * m / (sqrtf(v) / root + EPSILON);
    } else {
      m = momentum * m + g;
      w -= lr * m;
    }
    optimizer.first[i] = m;
    weights[i] = w;
  }
  // No barrier is needed: readers of weights first wait for the images of the next tile, and at the end every thread
  // copies out only the numbers that it wrote.
}

// The cross entropy of each image, whether its prediction is correct, and the deltas of the last stage, divided by the
// batch size.
DEVICE void measure(const Tile& tile, const int* labels, const int* order, int batch, float* losses, int* is_correct) {
  for (int image = thread(); image < tile.images; image += threads()) {
    const float* logits = tile.numbers + Sizes::LOGITS_OFFSET + image * Sizes::CLASSES;
    float* deltas = tile.numbers + Sizes::LOGIT_SLOPES_OFFSET + image * Sizes::CLASSES;
    const int label = labels[order[image]];
    float largest = logits[0], sum = 0.0f;
    int guess = 0;
    for (int c = 1; c < Sizes::CLASSES; ++c) {
      const bool new_nan = logits[c] != logits[c] && largest == largest;
      if (logits[c] > largest || new_nan) largest = logits[c], guess = c;
    }
    for (int c = 0; c < Sizes::CLASSES; ++c) sum += expf(logits[c] - largest);
    for (int c = 0; c < Sizes::CLASSES; ++c) {
      const float share = expf(logits[c] - largest) / sum;
      deltas[c] *= (share - (c == label ? 1.0f : 0.0f)) / static_cast<float>(batch);
    }
    losses[image] = logf(sum) - (logits[label] - largest);
    is_correct[image] = guess == label;
  }
  barrier();
}

DEVICE void load_images(const Epoch& epoch, const Tile& tile, const int* order) {
  constexpr int AREA = Sizes::INPUTS / Sizes::CHANNELS;
  for (int i = thread(); i < tile.images * Sizes::INPUTS; i += threads()) {
    const int image = i / Sizes::INPUTS, place = i % Sizes::INPUTS;
    const int pixel = epoch.pixels[static_cast<long long>(order[image]) * Sizes::INPUTS + place];
    tile.numbers[i] = epoch.table[place / AREA * 256 + pixel];
  }
  barrier();
}

DEVICE void copy_numbers(float* into, const float* from, int n) {
  for (int i = thread(); i < n; i += threads()) into[i] = from[i];
}

// Draw the dropout masks of a step of `batch` images, stage by stage, as the layers of a module would.
DEVICE void draw_masks(Mersenne& generator, const float* dropouts, int batch, unsigned char* keep) {
  for_each_stage([&](auto stage) {
    using S = decltype(stage);
    if (dropouts[S::NUMBER] > 0.0f) {
      generator.draw_keep(batch * S::OUTPUTS, dropouts[S::NUMBER], keep + S::mask_offset(batch));
    }
  });
}

DEVICE void forward_and_back(const Tile& tile, const Epoch& epoch, int first, int batch, const unsigned char* keep,
                             const int* order, float* losses, int* is_correct) {
  const int* activations = epoch.activations + block() * Sizes::STAGES;
  const float* dropouts = epoch.dropouts + block() * Sizes::STAGES;
  for_each_stage([&](auto stage) {
    using S = decltype(stage);
    const float p = dropouts[S::NUMBER];
    const unsigned char* mask = p > 0.0f ? keep + S::mask_offset(batch) : nullptr;
    forward<S>(tile, {activations[S::NUMBER], 1.0f / (1.0f - p), mask, first * S::OUTPUTS});
  });
  measure(tile, epoch.labels, order, batch, losses, is_correct);
  for_each_stage_backwards([&](auto stage) { backward<decltype(stage)>(tile); });
}

DEVICE void train_model(const Epoch& epoch, float* shared) {
  const long long model = block();
  constexpr int PARAMETERS = Sizes::PARAMETERS;
  float* losses = shared + Sizes::LOSSES_OFFSET;
  int* is_correct = reinterpret_cast<int*>(shared + Sizes::CORRECT_OFFSET);
  unsigned* states = reinterpret_cast<unsigned*>(shared + Sizes::GENERATOR_OFFSET);
  unsigned char* winners = reinterpret_cast<unsigned char*>(shared + Sizes::BYTES_OFFSET);
  unsigned char* keep = winners + Sizes::WINNER_BYTES;
  Tile tile{shared + Sizes::TILE_OFFSET, winners, shared, shared + PARAMETERS, shared + Sizes::SCRATCH_OFFSET, 0};
  float *own_first = epoch.first + model * PARAMETERS, *own_second = epoch.second + model * PARAMETERS;
  Optimizer optimizer{own_first, own_second, epoch.adaptive[model] != 0};
  if (Sizes::STATE_IS_SHARED) {
    optimizer.first = shared + 2 * PARAMETERS, optimizer.second = shared + 3 * PARAMETERS;
    copy_numbers(optimizer.first, own_first, PARAMETERS);
    copy_numbers(optimizer.second, own_second, PARAMETERS);
  }
  copy_numbers(tile.weights, epoch.weights + model * PARAMETERS, PARAMETERS);
  for (int i = thread(); i < PARAMETERS; i += threads()) tile.gradients[i] = 0.0f;
  Mersenne generator{states, states + Mersenne::WORDS, 0};
  generator.seed(static_cast<unsigned>(epoch.seeds[model]));

  const int images = static_cast<int>(epoch.images), batch_size = static_cast<int>(epoch.batch);
  const int steps = (images + batch_size - 1) / batch_size;
  const int* order = epoch.orders + model * images;
  const float* rates = epoch.rates + static_cast<long long>(epoch.plans[model]) * steps * 5;
  double loss = 0.0;  // both only in the first thread
  long long correct = 0;
  for (int begin = 0; begin < images; begin += batch_size, rates += 5) {
    const int batch = min(batch_size, images - begin);
    draw_masks(generator, epoch.dropouts + model * Sizes::STAGES, batch, keep);
    for (int first = 0; first < batch; first += Sizes::TILE) {
      tile.images = min(Sizes::TILE, batch - first);
      const int* tile_order = order + begin + first;
      load_images(epoch, tile, tile_order);
      forward_and_back(tile, epoch, first, batch, keep, tile_order, losses, is_correct);
      if (thread() == 0) {
        for (int image = 0; image < tile.images; ++image) loss += losses[image], correct += is_correct[image];
      }
    }
    optimize(tile.weights, tile.gradients, optimizer, rates);
  }

  copy_numbers(epoch.weights + model * PARAMETERS, tile.weights, PARAMETERS);
  if (Sizes::STATE_IS_SHARED) {
    copy_numbers(own_first, optimizer.first, PARAMETERS);
    copy_numbers(own_second, optimizer.second, PARAMETERS);
  }
  if (thread() == 0) epoch.losses[model] = loss, epoch.correct[model] = correct;
}

#ifdef __CUDACC__

extern "C" __global__ void __launch_bounds__(Sizes::THREADS, 1) train_epoch(const Epoch* epoch) {
  extern __shared__ float shared[];
  train_model(*epoch, shared);
}

#elif defined(BLOCK_THREADS)

struct Member {
  const Epoch* epoch;
  float* shared;
  int number;
};

static void* train_as(void* argument) {
  const Member& member = *static_cast<Member*>(argument);
  current_thread = member.number;
  train_model(*member.epoch, member.shared);
  return nullptr;
}

// Train the models one after the other, each with BLOCK_THREADS threads.
extern "C" void train_epoch(const Epoch* epoch, int models, float* shared) {
  pthread_barrier_init(&block_barrier, nullptr, BLOCK_THREADS);
  for (current_block = 0; current_block < models; ++current_block) {
    pthread_t running[BLOCK_THREADS];
    Member members[BLOCK_THREADS];
    for (int i = 0; i < BLOCK_THREADS; ++i) {
      members[i] = {epoch, shared, i};
      pthread_create(&running[i], nullptr, train_as, &members[i]);
    }
    for (pthread_t& each : running) pthread_join(each, nullptr);
  }
  pthread_barrier_destroy(&block_barrier);
}

#else

// Train the models one after the other, each with one thread; `shared` has the size of the shared memory of a block.
extern "C" void train_epoch(const Epoch* epoch, int models, float* shared) {
  for (current_block = 0; current_block < models; ++current_block) train_model(*epoch, shared);
}

#endif
