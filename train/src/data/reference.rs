//! Pictures that other programs are given too, and what is compared of their results.

/// Noise: the fill rule of the reference values (a hash of the place), stream 7, in 8 bits.
pub(super) fn noise(bytes: usize) -> Vec<u8> {
    let hash = |place: u32| {
        let mut bits = 8u32.wrapping_mul(0x9e37_79b9).wrapping_add(place);
        bits = (bits ^ (bits >> 16)).wrapping_mul(0x85eb_ca6b);
        bits = (bits ^ (bits >> 13)).wrapping_mul(0xc2b2_ae35);
        bits ^ (bits >> 16)
    };
    (0..bytes as u32).map(|place| (hash(place) >> 24) as u8).collect()
}

/// FNV-1a, 64 bits.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
