//! Hashes of what comes from outside and identifies something: event ids, bodies, orders' events.
//!
//! SHA-256, because whoever can post an event chooses its id: with a hash that is not collision resistant, one producer could make another one's
//! event a duplicate. Each part is hashed with its length, so that no two lists of parts are the same input.

use aws_lc_rs::digest::{Context, SHA256};

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// The first 128 bits of the hash of these parts.
#[must_use]
pub fn hash_128(parts: &[&[u8]]) -> u128 {
    let [a, b] = halves(parts);
    u128::from(a) << 64 | u128::from(b)
}

/// The first 64 bits of the hash of these parts: for comparisons within one order or one event id.
#[must_use]
pub fn hash_64(parts: &[&[u8]]) -> u64 {
    halves(parts)[0]
}

fn halves(parts: &[&[u8]]) -> [u64; 2] {
    let digest = digest(parts);
    let half = |from: usize| digest[from..from + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    [half(0), half(8)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(hash_128(&[b"a\0", b"b"]), hash_128(&[b"a", b"\0b"]));
        assert_ne!(hash_128(&[b"ab"]), hash_128(&[b"a", b"b"]));
        assert_eq!(hash_128(&[b"a", b"b"]) >> 64, u128::from(hash_64(&[b"a", b"b"])));
    }
}
