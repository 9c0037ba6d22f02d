//! Maps by numbers that nobody outside can choose: counters, and hashes with a secret seed. Pure.
//!
//! The hash of the standard library resists chosen keys, and costs more than all else of a look into a small map.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Spread>>;

#[derive(Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // By the golden ratio: each bit of the number reaches the upper ones.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // A map takes its place from the lower bits.
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher as _, BuildHasherDefault};

    use super::*;

    #[test]
    fn numbers_that_follow_each_other_or_share_their_lower_bits_lie_apart() {
        let hash = BuildHasherDefault::<Spread>::default();
        for shift in [0, 8, 20, 40] {
            let places = (0..1000_u64).map(|number| hash.hash_one(number << shift) % 4096);
            let places: HashSet<_> = places.collect();
            assert!(
                places.len() > 700,
                "{} places of 4096 at {shift}",
                places.len()
            );
        }
        assert_ne!(hash.hash_one((1_u64, 2_u64)), hash.hash_one((2_u64, 1_u64)));
    }
}
