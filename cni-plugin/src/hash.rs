//! FNV-1a with 64 bits: a hash that never changes, for names and for noticing torn writes.
//!
//! The function is part of what is on disk and in the kernel (names of links), so it is written
//! out here and must stay as it is. It does not withstand a search for collisions.

/// The hash of `bytes`; constants from draft-eastlake-fnv-17, section 5.
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.into_iter().fold(BASIS, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_vectors_hold() {
        for (text, hash) in [
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0x8594_4171_f739_67e8),
        ] {
            assert_eq!(fnv1a(text.bytes()), hash, "{text:?}");
        }
    }
}
