// The loop over time of a GRU, forward and back, for one core with bfloat16 products.
//
// torch would call a handful of operators at every step and pack the recurrent weights anew for every product. Here
// they are packed once a sequence, and a step is one product and one pass over its gates. Operands of products, and
// gates kept for the way back, are bfloat16; everything else is float32. Products use AMX tiles where the processor and the kernel allow, else AVX-512.
//
// Built and called by recurrence.py, which says what the arrays are.

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using bf16 = uint16_t;

constexpr int kLanes = 16;     // float32 in a vector; columns of a tile
constexpr int kTileRows = 16;
constexpr int kTileDepth = 32; // bfloat16 in a row of a tile

__m512 load_bf16(const bf16* from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16));
}

void store_bf16(bf16* to, __m512 values) { _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(values)); }

// exp(x) to 2 ulp: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (minimax-like Taylor coefficients).
__m512 exp_of(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 f = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    f = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), f);
    __m512 p = _mm512_set1_ps(1.f / 720);
    for (float c : {1.f / 120, 1.f / 24, 1.f / 6, .5f, 1.f, 1.f}) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c));
    return _mm512_scalef_ps(p, n);
}

__m512 sigmoid(__m512 x) {
    const __m512 limit = _mm512_set1_ps(80.f);
    x = _mm512_max_ps(_mm512_min_ps(x, limit), _mm512_sub_ps(_mm512_setzero_ps(), limit));
    const __m512 d = _mm512_add_ps(_mm512_set1_ps(1.f), exp_of(_mm512_sub_ps(_mm512_setzero_ps(), x)));
    const __m512 r = _mm512_rcp14_ps(d); // one step of Newton's takes it to full precision
    return _mm512_mul_ps(r, _mm512_fnmadd_ps(d, r, _mm512_set1_ps(2.f)));
}

__m512 tanh_of(__m512 x) {
    return _mm512_fmsub_ps(_mm512_set1_ps(2.f), sigmoid(_mm512_add_ps(x, x)), _mm512_set1_ps(1.f));
}

// A constant right operand [depth, columns], in tiles of 16 pairs of rows by 16 columns: what both kinds of product eat.
class Packed {
  public:
    // at(k, n) gives the element of row k and column n; depth is a multiple of 32, columns of 16.
    template <typename At> Packed(int depth, int columns, At at) : depth_(depth), columns_(columns) {
        storage_.resize(size_t(depth) * columns + 32);
        tiles_ = (bf16*)((uintptr_t(storage_.data()) + 63) & ~uintptr_t(63));
        bf16* to = tiles_;
        for (int n0 = 0; n0 < columns; n0 += kLanes)
            for (int k = 0; k < depth; k += 2)
                for (int n = n0; n < n0 + kLanes; n++)
                    for (int odd = 0; odd < 2; odd++) *to++ = at(k + odd, n);
    }

    const bf16* tile(int k, int n) const { return tiles_ + (size_t(n / kLanes) * depth_ + k) * kLanes; }
    int depth() const { return depth_; }
    int columns() const { return columns_; }

  private:
    int depth_, columns_;
    std::vector<bf16> storage_;
    bf16* tiles_;
};

#ifdef __AMX_BF16__
bool may_use_tiles() {
    constexpr long request_permission = 0x1023, tile_data = 18;
    static const bool granted = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    return granted;
}
#else
bool may_use_tiles() { return false; }
#endif

// out [rows, columns] = a [rows, depth] (rows `stride` apart) times a packed operand.
class Multiply {
  public:
    explicit Multiply(bool tiles) : tiles_(tiles) {}

    void operator()(const bf16* a, int stride, int rows, const Packed& b, float* out) {
#ifdef __AMX_BF16__
        if (tiles_) return by_tiles(a, stride, rows, b, out);
#endif
        int row = 0;
        for (; row + 12 <= rows; row += 12) by_vectors<12>(a + size_t(row) * stride, stride, b, out + size_t(row) * b.columns());
        for (; row + 4 <= rows; row += 4) by_vectors<4>(a + size_t(row) * stride, stride, b, out + size_t(row) * b.columns());
        for (; row < rows; row++) by_vectors<1>(a + size_t(row) * stride, stride, b, out + size_t(row) * b.columns());
    }

#ifdef __AMX_BF16__
    ~Multiply() {
        if (rows_[0]) _tile_release();
    }
#endif

  private:
    template <int kRows> static void by_vectors(const bf16* a, int stride, const Packed& b, float* out) {
        const int columns = b.columns();
        for (int n = 0; n < columns; n += 2 * kLanes) {
            const bool two = n + kLanes < columns;
            const bf16 *left = b.tile(0, n), *right = two ? b.tile(0, n + kLanes) : left;
            __m512 sum[kRows][2];
            for (auto& pair : sum) pair[0] = pair[1] = _mm512_setzero_ps();
            for (int k = 0; k < b.depth(); k += 2) {
                const __m512bh b0 = (__m512bh)_mm512_load_si512(left + k * kLanes);
                const __m512bh b1 = (__m512bh)_mm512_load_si512(right + k * kLanes);
#pragma GCC unroll 12
                for (int row = 0; row < kRows; row++) {
                    int32_t both;
                    std::memcpy(&both, a + size_t(row) * stride + k, sizeof both);
                    const __m512bh pair = (__m512bh)_mm512_set1_epi32(both);
                    sum[row][0] = _mm512_dpbf16_ps(sum[row][0], pair, b0);
                    sum[row][1] = _mm512_dpbf16_ps(sum[row][1], pair, b1);
                }
            }
            for (int row = 0; row < kRows; row++) {
                _mm512_storeu_ps(out + size_t(row) * columns + n, sum[row][0]);
                if (two) _mm512_storeu_ps(out + size_t(row) * columns + n + kLanes, sum[row][1]);
            }
        }
    }

#ifdef __AMX_BF16__
    // Tiles 0..3: sums, 4 and 5: rows of a, 6 and 7: columns of b.
    void by_tiles(const bf16* a, int stride, int rows, const Packed& b, float* out) {
        const int columns = b.columns(), tile_row = kLanes * 2 * sizeof(bf16), out_row = columns * sizeof(float);
        const int a_row = stride * sizeof(bf16);
        for (int row = 0; row < rows; row += 2 * kTileRows) {
            const int upper = std::min(rows - row, kTileRows), lower = std::min(rows - row - upper, kTileRows);
            configure(upper, lower);
            const bf16 *a0 = a + size_t(row) * stride, *a1 = a0 + size_t(kTileRows) * stride;
            float *out0 = out + size_t(row) * columns, *out1 = out0 + size_t(kTileRows) * columns;
            for (int n = 0; n < columns; n += 2 * kLanes) {
                const bool two = n + kLanes < columns;
                _tile_zero(0);
                if (two) _tile_zero(1);
                if (lower) _tile_zero(2);
                if (lower && two) _tile_zero(3);
                for (int k = 0; k < b.depth(); k += kTileDepth) {
                    _tile_loadd(6, b.tile(k, n), tile_row);
                    _tile_loadd(4, a0 + k, a_row);
                    _tile_dpbf16ps(0, 4, 6);
                    if (lower) {
                        _tile_loadd(5, a1 + k, a_row);
                        _tile_dpbf16ps(2, 5, 6);
                    }
                    if (two) {
                        _tile_loadd(7, b.tile(k, n + kLanes), tile_row);
                        _tile_dpbf16ps(1, 4, 7);
                        if (lower) _tile_dpbf16ps(3, 5, 7);
                    }
                }
                _tile_stored(0, out0 + n, out_row);
                if (two) _tile_stored(1, out0 + n + kLanes, out_row);
                if (lower) _tile_stored(2, out1 + n, out_row);
                if (lower && two) _tile_stored(3, out1 + n + kLanes, out_row);
            }
        }
    }

    void configure(int upper, int lower) {
        if (upper == rows_[0] && lower == rows_[1]) return;
        rows_[0] = upper;
        rows_[1] = lower;
        struct alignas(64) {
            uint8_t palette, start_row, reserved[14];
            uint16_t bytes_per_row[16];
            uint8_t rows[16];
        } shape{};
        shape.palette = 1;
        const int heights[8] = {upper, upper, lower, lower, upper, lower, kTileRows, kTileRows};
        for (int tile = 0; tile < 8; tile++) {
            shape.rows[tile] = heights[tile];
            shape.bytes_per_row[tile] = heights[tile] ? 64 : 0;
        }
        _tile_loadconfig(&shape);
    }
#endif

    bool tiles_;
    int rows_[2] = {0, 0};
};

} // namespace

extern "C" {

// Whether products run on AMX tiles here.
int gru_has_tiles() { return may_use_tiles(); }

void gru_forward(int steps, int items, int hidden, const bf16* from_input, const bf16* weight, const float* bias_input,
                 const float* bias_state, float* states, bf16* narrow, bf16* gates, int use_tiles) {
    const Packed packed(hidden, 3 * hidden, [&](int k, int n) { return weight[size_t(n) * hidden + k]; });
    Multiply multiply(use_tiles && may_use_tiles());
    std::vector<float> product(size_t(items) * 3 * hidden);
    const size_t step_size = size_t(items) * hidden;
    for (size_t i = 0; i < step_size; i += kLanes) store_bf16(narrow + i, _mm512_loadu_ps(states + i));
    for (int t = 0; t < steps; t++) {
        multiply(narrow + t * step_size, hidden, items, packed, product.data());
        for (int item = 0; item < items; item++) {
            const bf16* x = from_input + (size_t(t) * items + item) * 3 * hidden;
            const float* s = product.data() + size_t(item) * 3 * hidden;
            const float* before = states + t * step_size + size_t(item) * hidden;
            float* after = states + (t + 1) * step_size + size_t(item) * hidden;
            bf16* after_narrow = narrow + (t + 1) * step_size + size_t(item) * hidden;
            bf16* gate = gates + (size_t(t) * items + item) * 4 * hidden;
            const auto sum = [&](int i) {
                const __m512 bias = _mm512_add_ps(_mm512_loadu_ps(bias_input + i), _mm512_loadu_ps(bias_state + i));
                return _mm512_add_ps(_mm512_add_ps(load_bf16(x + i), _mm512_loadu_ps(s + i)), bias);
            };
            for (int i = 0; i < hidden; i += kLanes) {
                const int iz = hidden + i, in = 2 * hidden + i;
                const __m512 r = sigmoid(sum(i)), z = sigmoid(sum(iz));
                const __m512 inner = _mm512_add_ps(_mm512_loadu_ps(s + in), _mm512_loadu_ps(bias_state + in));
                const __m512 x_n = _mm512_add_ps(load_bf16(x + in), _mm512_loadu_ps(bias_input + in));
                const __m512 n = tanh_of(_mm512_fmadd_ps(r, inner, x_n));
                const __m512 h = _mm512_fmadd_ps(z, _mm512_sub_ps(_mm512_loadu_ps(before + i), n), n);
                _mm512_storeu_ps(after + i, h);
                store_bf16(after_narrow + i, h);
                store_bf16(gate + i, inner);
                store_bf16(gate + hidden + i, r);
                store_bf16(gate + 2 * hidden + i, z);
                store_bf16(gate + 3 * hidden + i, n);
            }
        }
    }
}

void gru_backward(int steps, int items, int hidden, const float* grad, const bf16* weight, const float* states,
                  const bf16* gates, bf16* grads, float* d_state, int use_tiles) {
    // What multiplies the state: rows r, z, n of the weights, met by the gradients in the order n (inner), r, z.
    const Packed packed(3 * hidden, hidden, [&](int k, int n) {
        const int row = k < hidden ? k + 2 * hidden : k - hidden;
        return weight[size_t(row) * hidden + n];
    });
    Multiply multiply(use_tiles && may_use_tiles());
    const size_t step_size = size_t(items) * hidden;
    std::vector<float> product(step_size);
    const __m512 one = _mm512_set1_ps(1.f);
    std::fill(d_state, d_state + step_size, 0.f);
    for (int t = steps - 1; t >= 0; t--) {
        for (int item = 0; item < items; item++) {
            const size_t place = t * step_size + size_t(item) * hidden;
            const bf16* gate = gates + 4 * place;
            bf16* to = grads + 4 * place;
            float* carried = d_state + size_t(item) * hidden;
            for (int i = 0; i < hidden; i += kLanes) {
                const __m512 inner = load_bf16(gate + i), r = load_bf16(gate + hidden + i);
                const __m512 z = load_bf16(gate + 2 * hidden + i), n = load_bf16(gate + 3 * hidden + i);
                const __m512 d = _mm512_add_ps(_mm512_loadu_ps(grad + place + i), _mm512_loadu_ps(carried + i));
                const __m512 dz = _mm512_mul_ps(d, z), keep = _mm512_sub_ps(one, z);
                const __m512 d_n = _mm512_mul_ps(_mm512_mul_ps(d, keep), _mm512_fnmadd_ps(n, n, one));
                const __m512 d_inner = _mm512_mul_ps(d_n, r);
                store_bf16(to + i, d_inner);
                store_bf16(to + hidden + i, _mm512_mul_ps(_mm512_mul_ps(d_inner, inner), _mm512_sub_ps(one, r)));
                const __m512 change = _mm512_sub_ps(_mm512_loadu_ps(states + place + i), n);
                store_bf16(to + 2 * hidden + i, _mm512_mul_ps(_mm512_mul_ps(dz, change), keep));
                store_bf16(to + 3 * hidden + i, d_n);
                _mm512_storeu_ps(carried + i, dz);
            }
        }
        multiply(grads + 4 * t * step_size, 4 * hidden, items, packed, product.data());
        for (size_t i = 0; i < step_size; i += kLanes)
            _mm512_storeu_ps(d_state + i, _mm512_add_ps(_mm512_loadu_ps(d_state + i), _mm512_loadu_ps(product.data() + i)));
    }
}

} // extern "C"
