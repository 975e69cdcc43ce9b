//! What of mapped files was found whole since it came into memory, so that its checksum is not
//! computed for each reader: a bit for the line of 64 bytes in which it begins. A table of fixed
//! size for the whole process, in which a stretch of a file may take the place of another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// As many bits as a stretch has lines, none of which holds the beginning of two records.
const LINE_BYTES: usize = 64;
pub(super) const STRETCH_BYTES: usize = 1 << 20;
const WORDS: usize = STRETCH_BYTES / LINE_BYTES / 64;
/// Of 2 KiB each: 4 GiB of files are known at most, by 8 MiB.
const PLACES: usize = 4096;

/// One mapping of a file: the number of its first stretch among all of this process's life.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner(u64);

struct Place {
    /// A stretch by its number; 0 is nobody's.
    of: u64,
    bits: Option<Box<[u64; WORDS]>>,
}

static TABLE: [Mutex<Place>; PLACES] = [const { Mutex::new(Place { of: 0, bits: None }) }; PLACES];

impl Owner {
    /// Of a mapping of so many stretches.
    pub(super) fn new(stretches: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(stretches as u64, Ordering::Relaxed))
    }

    pub(super) fn knows(self, at: usize) -> bool {
        let (of, place) = self.place(at / STRETCH_BYTES);
        let (word, bit) = bit(at);
        let known = place.bits.as_ref().filter(|_| place.of == of);
        known.is_some_and(|bits| bits[word] & bit != 0)
    }

    pub(super) fn learn(self, at: usize) {
        let (of, mut place) = self.place(at / STRETCH_BYTES);
        let (word, bit) = bit(at);
        let fresh = place.of != of;
        place.of = of;
        let bits = place.bits.get_or_insert_with(|| Box::new([0; WORDS]));
        if fresh {
            bits.fill(0);
        }
        bits[word] |= bit;
    }

    /// A stretch is no longer in memory: what comes back may be something else.
    pub(super) fn forget(self, stretch: usize) {
        let (of, mut place) = self.place(stretch);
        if place.of == of {
            place.of = 0;
        }
    }

    fn place(self, stretch: usize) -> (u64, MutexGuard<'static, Place>) {
        let of = self.0 + stretch as u64;
        let place = &TABLE[of as usize % PLACES];
        (of, place.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which word of a stretch, and which bit of it.
fn bit(at: usize) -> (usize, u64) {
    let line = at % STRETCH_BYTES / LINE_BYTES;
    (line / 64, 1 << (line % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_is_known_until_it_is_forgotten() {
        let (one, other) = (Owner::new(10), Owner::new(10));
        for at in [0, 64, 4_095, STRETCH_BYTES - 1, STRETCH_BYTES, 9_999_999] {
            assert!(!one.knows(at), "{at}");
            one.learn(at);
            assert!(one.knows(at) && !other.knows(at), "{at}");
        }
        assert!(!one.knows(128), "another line");
        one.forget(0);
        assert!(!one.knows(0) && !one.knows(STRETCH_BYTES - 1));
        assert!(one.knows(STRETCH_BYTES) && one.knows(9_999_999));
    }

    #[test]
    fn a_place_goes_to_whoever_came_last() {
        let one = Owner::new(PLACES + 1);
        let far = PLACES * STRETCH_BYTES;
        one.learn(0);
        one.learn(far + 64);
        assert!(!one.knows(0) && one.knows(far + 64) && !one.knows(far));
    }
}
