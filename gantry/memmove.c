/* memmove and memcpy for x86-64, in place of musl's: those start with `rep movsq`, which takes some
 * 40 ns before the first byte. A broker copies a few bytes some 60 times a message (names, values,
 * numbers as text), which was a seventh of the processor time of a send.
 *
 * Up to 128 bytes all is loaded before anything is stored, so that an overlap does no harm. Above,
 * the end that the loop would overwrite first is loaded before it. */

#include <emmintrin.h>
#include <stddef.h>
#include <stdint.h>

#define LOAD(at) _mm_loadu_si128((const __m128i *)(at))
#define STORE(at, value) _mm_storeu_si128((__m128i *)(at), value)
/* From here on the start of `rep movsq` no longer counts. */
#define REP_BYTES_MIN 4096

typedef uint64_t __attribute__((may_alias, aligned(1))) u64;
typedef uint32_t __attribute__((may_alias, aligned(1))) u32;
typedef uint16_t __attribute__((may_alias, aligned(1))) u16;
typedef unsigned char byte;

typedef struct {
    __m128i a, b, c, d;
} line;

static inline line load(const byte *from)
{
    return (line){LOAD(from), LOAD(from + 16), LOAD(from + 32), LOAD(from + 48)};
}

static inline void store(byte *to, line of)
{
    STORE(to, of.a), STORE(to + 16, of.b), STORE(to + 32, of.c), STORE(to + 48, of.d);
}

static inline void small(byte *to, const byte *from, size_t bytes)
{
    if (bytes >= 8) {
        uint64_t first = *(const u64 *)from, last = *(const u64 *)(from + bytes - 8);
        *(u64 *)to = first, *(u64 *)(to + bytes - 8) = last;
    } else if (bytes >= 4) {
        uint32_t first = *(const u32 *)from, last = *(const u32 *)(from + bytes - 4);
        *(u32 *)to = first, *(u32 *)(to + bytes - 4) = last;
    } else if (bytes >= 2) {
        uint16_t first = *(const u16 *)from, last = *(const u16 *)(from + bytes - 2);
        *(u16 *)to = first, *(u16 *)(to + bytes - 2) = last;
    } else if (bytes == 1) {
        *to = *from;
    }
}

void *memmove(void *target, const void *source, size_t bytes)
{
    byte *to = target;
    const byte *from = source;
    if (bytes <= 16) {
        small(to, from, bytes);
    } else if (bytes <= 32) {
        __m128i first = LOAD(from), last = LOAD(from + bytes - 16);
        STORE(to, first), STORE(to + bytes - 16, last);
    } else if (bytes <= 64) {
        __m128i a = LOAD(from), b = LOAD(from + 16);
        __m128i c = LOAD(from + bytes - 32), d = LOAD(from + bytes - 16);
        STORE(to, a), STORE(to + 16, b);
        STORE(to + bytes - 32, c), STORE(to + bytes - 16, d);
    } else if (bytes <= 128) {
        line first = load(from), last = load(from + bytes - 64);
        store(to, first), store(to + bytes - 64, last);
    } else if ((uintptr_t)to - (uintptr_t)from < bytes) {
        line first = load(from);
        size_t left = bytes;
        for (; left > 64; left -= 64)
            store(to + left - 64, load(from + left - 64));
        store(to, first);
    } else if (bytes >= REP_BYTES_MIN && (uintptr_t)from - (uintptr_t)to >= bytes) {
        size_t words = bytes / 8, rest = bytes % 8;
        __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
        small(to, from, rest);
    } else {
        line last = load(from + bytes - 64);
        size_t done = 0;
        for (; bytes - done > 64; done += 64)
            store(to + done, load(from + done));
        store(to + bytes - 64, last);
    }
    return target;
}

void *memcpy(void *target, const void *source, size_t bytes) __attribute__((alias("memmove")));
