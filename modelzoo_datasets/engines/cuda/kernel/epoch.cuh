// One epoch of many models: a block trains one whole model and never speaks to another, so a result depends on nothing
// but the model. Weights and gradients stay in shared memory throughout, and the optimizer's state where there is room.
//
// The generated head (blocks.py) has defined the stages, `for_each_stage`, `for_each_stage_backwards`, and `Sizes`.
#pragma once
#include "mersenne.cuh"
#include "stage.cuh"

// Every field is 8 bytes wide, in the order in which blocks.py fills them. M models, S stages, P weights, B batch.
struct Epoch {
    const unsigned char* pixels;  // (images, channels, height, width)
    const int* labels;            // (images,)
    const int* orders;            // (M, images)
    const float* table;           // (channels, 256) what a pixel is for the network
    float* weights;               // (M, P) in the kernel's order
    float* first;                 // (M, P) momentum, or Adam's first moment
    float* second;                // (M, P)
    const float* rates;           // (plans, steps, 5); see optimizing.py
    const int* plans;             // (M,) which of them
    const int* adaptive;          // (M,) 0 is SGD, 1 Adam or AdamW
    const int* activations;       // (M, S)
    const float* dropouts;        // (M, S)
    const int* seeds;             // (M,) of the dropout masks
    double* losses;               // (M,) sum over the images
    long long* correct;           // (M,)
    long long images;
    long long batch;
};

// What the optimizer of one model has to itself.
struct Optimizer {
    float *first, *second;
    bool adaptive;
};

DEVICE void optimize(float* weights, float* gradients, const Optimizer& optimizer, const float* rates) {
    constexpr float kBeta2 = 0.999f, kOneMinusBeta2 = 0.001f, kEpsilon = 1e-8f;
    const float l2 = rates[0], keep = rates[1], inertia = rates[2], rate = rates[3], root = rates[4];
    for (int i = thread(); i < Sizes::kParameters; i += threads()) {
        float w = weights[i], m = optimizer.first[i];
        const float g = gradients[i] + l2 * w;
        gradients[i] = 0.0f;
        if (optimizer.adaptive) {
            w *= keep;
            m += inertia * (g - m);
            const float v = kBeta2 * optimizer.second[i] + kOneMinusBeta2 * g * g;
            optimizer.second[i] = v;
            w -= rate * m / (sqrtf(v) / root + kEpsilon);
        } else {
            m = inertia * m + g;
            w -= rate * m;
        }
        optimizer.first[i] = m;
        weights[i] = w;
    }
    // No barrier: whoever reads weights waits for the images of the next tile first, and copies out what it wrote.
}

// Cross entropy of each image: its loss, whether it is right, and the deltas of the last stage, divided by the batch.
DEVICE void measure(const Tile& tile, const int* labels, const int* order, int batch, float* losses, int* right) {
    for (int image = thread(); image < tile.images; image += threads()) {
        const float* logits = tile.numbers + Sizes::kLogitsAt + image * Sizes::kClasses;
        float* deltas = tile.numbers + Sizes::kLogitSlopesAt + image * Sizes::kClasses;
        const int label = labels[order[image]];
        float largest = logits[0], sum = 0.0f;
        int guess = 0;
        for (int c = 1; c < Sizes::kClasses; ++c) {
            const bool new_nan = logits[c] != logits[c] && largest == largest;
            if (logits[c] > largest || new_nan) largest = logits[c], guess = c;
        }
        for (int c = 0; c < Sizes::kClasses; ++c) sum += expf(logits[c] - largest);
        for (int c = 0; c < Sizes::kClasses; ++c) {
            const float share = expf(logits[c] - largest) / sum;
            deltas[c] *= (share - (c == label ? 1.0f : 0.0f)) / static_cast<float>(batch);
        }
        losses[image] = logf(sum) - (logits[label] - largest);
        right[image] = guess == label;
    }
    barrier();
}

DEVICE void load_images(const Epoch& epoch, const Tile& tile, const int* order) {
    constexpr int kArea = Sizes::kInputs / Sizes::kChannels;
    for (int i = thread(); i < tile.images * Sizes::kInputs; i += threads()) {
        const int image = i / Sizes::kInputs, place = i % Sizes::kInputs;
        const int pixel = epoch.pixels[static_cast<long long>(order[image]) * Sizes::kInputs + place];
        tile.numbers[i] = epoch.table[place / kArea * 256 + pixel];
    }
    barrier();
}

DEVICE void copy_numbers(float* into, const float* from, int n) {
    for (int i = thread(); i < n; i += threads()) into[i] = from[i];
}

// All that is drawn in a step of `batch` images, stage by stage as the layers of a module would.
DEVICE void draw_masks(Mersenne& generator, const float* dropouts, int batch, unsigned char* keep) {
    for_each_stage([&](auto stage) {
        using S = decltype(stage);
        if (dropouts[S::kNumber] > 0.0f) {
            generator.draw_keep(batch * S::kOutputs, dropouts[S::kNumber], keep + S::mask_at(batch));
        }
    });
}

DEVICE void forward_and_back(const Tile& tile, const Epoch& epoch, int first, int batch, const unsigned char* keep,
                             const int* order, float* losses, int* right) {
    const int* activations = epoch.activations + block() * Sizes::kStages;
    const float* dropouts = epoch.dropouts + block() * Sizes::kStages;
    for_each_stage([&](auto stage) {
        using S = decltype(stage);
        const float p = dropouts[S::kNumber];
        const unsigned char* mask = p > 0.0f ? keep + S::mask_at(batch) : nullptr;
        forward<S>(tile, {activations[S::kNumber], 1.0f / (1.0f - p), mask, first * S::kOutputs});
    });
    measure(tile, epoch.labels, order, batch, losses, right);
    for_each_stage_backwards([&](auto stage) { backward<decltype(stage)>(tile); });
}

DEVICE void train_model(const Epoch& epoch, float* shared) {
    const long long model = block();
    constexpr int kParameters = Sizes::kParameters;
    float* losses = shared + Sizes::kLossesAt;
    int* right = reinterpret_cast<int*>(shared + Sizes::kRightAt);
    unsigned* states = reinterpret_cast<unsigned*>(shared + Sizes::kGeneratorAt);
    unsigned char* winners = reinterpret_cast<unsigned char*>(shared + Sizes::kBytesAt);
    unsigned char* keep = winners + Sizes::kWinners;
    Tile tile{shared + Sizes::kNumbersAt, winners, shared, shared + kParameters, shared + Sizes::kScratchAt, 0};
    float *own_first = epoch.first + model * kParameters, *own_second = epoch.second + model * kParameters;
    Optimizer optimizer{own_first, own_second, epoch.adaptive[model] != 0};
    if (Sizes::kStateIsShared) {
        optimizer.first = shared + 2 * kParameters, optimizer.second = shared + 3 * kParameters;
        copy_numbers(optimizer.first, own_first, kParameters);
        copy_numbers(optimizer.second, own_second, kParameters);
    }
    copy_numbers(tile.weights, epoch.weights + model * kParameters, kParameters);
    for (int i = thread(); i < kParameters; i += threads()) tile.gradients[i] = 0.0f;
    Mersenne generator{states, states + Mersenne::kWords, 0};
    generator.seed(static_cast<unsigned>(epoch.seeds[model]));

    const int images = static_cast<int>(epoch.images), batch_size = static_cast<int>(epoch.batch);
    const int steps = (images + batch_size - 1) / batch_size;
    const int* order = epoch.orders + model * images;
    const float* rates = epoch.rates + static_cast<long long>(epoch.plans[model]) * steps * 5;
    double loss = 0.0;  // these two in the first thread
    long long correct = 0;
    for (int begin = 0; begin < images; begin += batch_size, rates += 5) {
        const int batch = min(batch_size, images - begin);
        draw_masks(generator, epoch.dropouts + model * Sizes::kStages, batch, keep);
        for (int first = 0; first < batch; first += Sizes::kTile) {
            tile.images = min(Sizes::kTile, batch - first);
            const int* chosen = order + begin + first;
            load_images(epoch, tile, chosen);
            forward_and_back(tile, epoch, first, batch, keep, chosen, losses, right);
            if (thread() == 0) {
                for (int image = 0; image < tile.images; ++image) loss += losses[image], correct += right[image];
            }
        }
        optimize(tile.weights, tile.gradients, optimizer, rates);
    }

    copy_numbers(epoch.weights + model * kParameters, tile.weights, kParameters);
    if (Sizes::kStateIsShared) {
        copy_numbers(own_first, optimizer.first, kParameters);
        copy_numbers(own_second, optimizer.second, kParameters);
    }
    if (thread() == 0) epoch.losses[model] = loss, epoch.correct[model] = correct;
}

#ifdef __CUDACC__

extern "C" __global__ void __launch_bounds__(Sizes::kThreads, 1) train_epoch(const Epoch* epoch) {
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

// Models one after the other, each by BLOCK_THREADS threads.
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

// Models one after the other, each by one thread; `shared` is as large as the shared memory of a block.
extern "C" void train_epoch(const Epoch* epoch, int models, float* shared) {
    for (current_block = 0; current_block < models; ++current_block) train_model(*epoch, shared);
}

#endif
