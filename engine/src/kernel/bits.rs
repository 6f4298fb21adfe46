//! Distances of rows of bits: how many differ from those of a probe.
//!
//! Rows lie in blocks of eight: the first word of each of the eight, then the second word of each, and so on. Of a probe's bits
//! some count, all the same, or each counts by a weight of its own.

use super::isa::Isa;

/// Rows of a block.
pub(crate) const BLOCK: usize = 8;
/// Most words of a row.
const WORDS: usize = 8;

/// Weights that a bit can have: 0 to 7.
pub(crate) const WEIGHT_BITS: usize = 3;

/// A probe's bits of which some are marked: only those count.
pub(crate) struct Marked {
    /// For each word the bits, and which of them are marked.
    words: Vec<[u64; 2]>,
}

impl Marked {
    /// Of bits and whether each is marked. A multiple of 64 of them, at most 512.
    pub(crate) fn new(bits: impl ExactSizeIterator<Item = (bool, bool)>) -> Self {
        assert!(bits.len().is_multiple_of(64) && (1..=WORDS).contains(&(bits.len() / 64)));
        let mut words = vec![[0; 2]; bits.len() / 64];
        for (at, (bit, marked)) in bits.enumerate() {
            words[at / 64][0] |= u64::from(bit) << (at % 64);
            words[at / 64][1] |= u64::from(marked) << (at % 64);
        }
        Self { words }
    }

    /// In how many marked bits a row differs, whose words lie one after the other.
    pub(crate) fn distance_to(&self, row: &[u64]) -> u16 {
        assert!(row.len() == self.words.len());
        self.words.iter().zip(row).map(|([bits, marks], word)| ((word ^ bits) & marks).count_ones() as u16).sum()
    }

    /// In how many marked bits each row differs.
    pub(crate) fn distances(&self, isa: Isa, blocks: &[u64], into: &mut [u16]) {
        assert!(into.len().is_multiple_of(BLOCK) && blocks.len() == into.len() * self.words.len());
        match isa {
            // SAFETY: `Isa` values other than `Portable` come from `Isa::available` only, which asks the processor; machines
            // with AVX-512 have AVX2. The lengths were compared above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 if has_vpopcntdq() => unsafe {
                avx512::distances(&self.words, blocks, into);
            },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => unsafe { avx2::distances(&self.words, blocks, into) },
            _ => self.portable(blocks, into),
        }
    }

    /// A byte for each block: which of its rows differ in at most `most` marked bits, the first row in the lowest bit.
    pub(crate) fn nearest(&self, isa: Isa, blocks: &[u64], most: u16, near: &mut [u8]) {
        /// Blocks that are looked at at a time.
        const BLOCKS: usize = 32;
        let length = self.words.len() * BLOCK;
        assert!(blocks.len() == near.len() * length);
        #[cfg(target_arch = "x86_64")]
        if matches!(isa, Isa::Avx512Bf16 | Isa::Avx512) && has_vpopcntdq() {
            macro_rules! of_words {
                ($($words:literal)*) => {
                    match self.words.len() {
                        // SAFETY: as in `distances`.
                        $($words => unsafe { avx512::nearest::<$words>(&self.words, blocks, most, near) },)*
                        words => unreachable!("{words} words"),
                    }
                };
            }
            return of_words!(1 2 3 4 5 6 7 8);
        }
        let mut away = [0; BLOCKS * BLOCK];
        for (near, blocks) in near.chunks_mut(BLOCKS).zip(blocks.chunks(BLOCKS * length)) {
            let away = &mut away[..near.len() * BLOCK];
            self.distances(isa, blocks, away);
            for (near, away) in near.iter_mut().zip(away.chunks_exact(BLOCK)) {
                *near = away.iter().enumerate().map(|(row, away)| u8::from(*away <= most) << row).sum();
            }
        }
    }

    fn portable(&self, blocks: &[u64], into: &mut [u16]) {
        for (block, into) in blocks.chunks_exact(self.words.len() * BLOCK).zip(into.chunks_exact_mut(BLOCK)) {
            for (row, distance) in into.iter_mut().enumerate() {
                let words = block[row..].iter().step_by(BLOCK);
                *distance = words
                    .zip(&self.words)
                    .map(|(word, [bits, marks])| ((word ^ bits) & marks).count_ones() as u16)
                    .sum();
            }
        }
    }
}

/// A probe's bits of which some count more than others.
pub(crate) struct Weighed {
    /// For each word the bits, and the first to last bit of each one's weight.
    words: Vec<[u64; 1 + WEIGHT_BITS]>,
}

impl Weighed {
    /// Of bits that are set where the value is above 0, each with a weight of 0 to 7. A multiple of 64 of them, at most 512.
    pub(crate) fn new(bits: impl ExactSizeIterator<Item = (bool, u8)>) -> Self {
        assert!(bits.len().is_multiple_of(64) && (1..=WORDS).contains(&(bits.len() / 64)));
        let mut words = vec![[0; 1 + WEIGHT_BITS]; bits.len() / 64];
        for (at, (bit, weight)) in bits.enumerate() {
            debug_assert!(weight < 1 << WEIGHT_BITS);
            let word = &mut words[at / 64];
            word[0] |= u64::from(bit) << (at % 64);
            (0..WEIGHT_BITS).for_each(|b| word[1 + b] |= u64::from(weight >> b & 1) << (at % 64));
        }
        Self { words }
    }

    /// The sum of the weights of the bits in which each row of a block differs.
    pub(crate) fn distances(&self, isa: Isa, block: &[u64]) -> [u16; BLOCK] {
        assert!(block.len() == self.words.len() * BLOCK);
        match isa {
            // SAFETY: as in `Marked::distances`; the block is as long as the probe says.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 if has_vpopcntdq() => unsafe { avx512::weighed(&self.words, block) },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => unsafe { avx2::weighed(&self.words, block) },
            _ => self.portable(block),
        }
    }

    /// Leaves of the rows that are `near`, a byte for each block, those whose sum of weights is at most `most`.
    pub(crate) fn refine(&self, isa: Isa, blocks: &[u64], most: u16, near: &mut [u8]) {
        let length = self.words.len() * BLOCK;
        assert!(blocks.len() == length * near.len() && near.len() <= u8::MAX.into());
        // Listed first: whether a block has a near row is anybody's guess, and guessing wrong costs more than a block does.
        let (mut listed, mut count) = ([0u8; u8::MAX as usize], 0);
        for (at, near) in near.iter().enumerate() {
            listed[count] = at as u8;
            count += usize::from(*near != 0);
        }
        let listed = &listed[..count];
        #[cfg(target_arch = "x86_64")]
        if matches!(isa, Isa::Avx512Bf16 | Isa::Avx512) && has_vpopcntdq() {
            macro_rules! of_words {
                ($($words:literal)*) => {
                    match self.words.len() {
                        // SAFETY: as in `Marked::distances`; the lengths were compared above, and what is listed is below the number
                        // of blocks.
                        $($words => unsafe { avx512::refine::<$words>(&self.words, blocks, most, listed, near) },)*
                        words => unreachable!("{words} words"),
                    }
                };
            }
            return of_words!(1 2 3 4 5 6 7 8);
        }
        for at in listed.iter().map(|at| usize::from(*at)) {
            let weighed = self.distances(isa, &blocks[at * length..(at + 1) * length]);
            let is_near = |(row, away): (usize, u16)| u8::from(away <= most) << row;
            near[at] &= weighed.into_iter().enumerate().map(is_near).sum::<u8>();
        }
    }

    fn portable(&self, block: &[u64]) -> [u16; BLOCK] {
        let mut sums = [0; BLOCK];
        for (words, [bits, weights @ ..]) in block.chunks_exact(BLOCK).zip(&self.words) {
            for (sum, word) in sums.iter_mut().zip(words) {
                for (b, weights) in weights.iter().enumerate() {
                    *sum += (((word ^ bits) & weights).count_ones() as u16) << b;
                }
            }
        }
        sums
    }
}

/// Whether the machine counts bits in all lanes at once, which not all with AVX-512 do.
#[cfg(target_arch = "x86_64")]
fn has_vpopcntdq() -> bool {
    is_x86_feature_detected!("avx512vpopcntdq")
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{BLOCK, WEIGHT_BITS};

    /// As [`super::Weighed::distances`].
    ///
    /// # Safety
    ///
    /// The machine has AVX2; the block has eight words for each of at most 31 of the probe.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn weighed(probe: &[[u64; 1 + WEIGHT_BITS]], block: &[u64]) -> [u16; BLOCK] {
        let zero = _mm256_setzero_si256();
        let mut all = [0; BLOCK];
        for half in 0..2 {
            let mut counts = [zero; WEIGHT_BITS];
            for (at, [bits, weights @ ..]) in probe.iter().enumerate() {
                let bits = _mm256_set1_epi64x(bits.cast_signed());
                // SAFETY: the caller's promise.
                let four = unsafe { _mm256_loadu_si256(block.as_ptr().add(at * BLOCK + half * BLOCK / 2).cast()) };
                let differ = _mm256_xor_si256(four, bits);
                for (count, weights) in counts.iter_mut().zip(weights) {
                    let weighed = _mm256_and_si256(differ, _mm256_set1_epi64x(weights.cast_signed()));
                    *count = _mm256_add_epi8(*count, ones(weighed));
                }
            }
            let sums = counts.map(|counts| _mm256_sad_epu8(counts, zero));
            let upper = _mm256_add_epi64(_mm256_slli_epi64::<1>(sums[1]), _mm256_slli_epi64::<2>(sums[2]));
            let mut four = [0u64; BLOCK / 2];
            // SAFETY: four words are written.
            unsafe { _mm256_storeu_si256(four.as_mut_ptr().cast(), _mm256_add_epi64(sums[0], upper)) };
            all[half * BLOCK / 2..].iter_mut().zip(four).for_each(|(to, sum)| *to = sum as u16);
        }
        all
    }

    /// As [`super::Marked::distances`].
    ///
    /// # Safety
    ///
    /// The machine has AVX2; for eight places of `into` there is a block as long as the probe says, of at most 31 words a row.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn distances(probe: &[[u64; 2]], blocks: &[u64], into: &mut [u16]) {
        let zero = _mm256_setzero_si256();
        let order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
        let mut block = blocks.as_ptr();
        for to in into.chunks_exact_mut(BLOCK) {
            let (mut first, mut second) = (zero, zero);
            for word in probe {
                let [bits, marks] = word.map(|word| _mm256_set1_epi64x(word.cast_signed()));
                // SAFETY: the caller's promise.
                let (four, others) =
                    unsafe { (_mm256_loadu_si256(block.cast()), _mm256_loadu_si256(block.add(BLOCK / 2).cast())) };
                first = _mm256_add_epi8(first, ones(_mm256_and_si256(_mm256_xor_si256(four, bits), marks)));
                second = _mm256_add_epi8(second, ones(_mm256_and_si256(_mm256_xor_si256(others, bits), marks)));
                block = block.wrapping_add(BLOCK);
            }
            // Sums in the order 0, 4, 1, 5, 2, 6, 3, 7.
            let (first, second) = (_mm256_sad_epu8(first, zero), _mm256_sad_epu8(second, zero));
            let sums = _mm256_or_si256(first, _mm256_slli_epi64::<32>(second));
            let sums = _mm256_permutevar8x32_epi32(sums, order);
            let sums = _mm_packus_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            // SAFETY: there are eight places.
            unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), sums) };
        }
    }

    /// How many bits of each byte are set.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn ones(bytes: __m256i) -> __m256i {
        let of_half = _mm256_setr_epi8(
            0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
        );
        let half = _mm256_set1_epi8(15);
        let lower = _mm256_shuffle_epi8(of_half, _mm256_and_si256(bytes, half));
        let upper = _mm256_shuffle_epi8(of_half, _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), half));
        _mm256_add_epi8(lower, upper)
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{BLOCK, WEIGHT_BITS};

    /// As [`super::Weighed::distances`].
    ///
    /// # Safety
    ///
    /// The machine has AVX-512 F, BW, VL and VPOPCNTDQ; the block has eight words for each of the probe.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
    pub(super) unsafe fn weighed(probe: &[[u64; 1 + WEIGHT_BITS]], block: &[u64]) -> [u16; BLOCK] {
        let mut sums = [_mm512_setzero_si512(); WEIGHT_BITS];
        for (at, [bits, weights @ ..]) in probe.iter().enumerate() {
            // SAFETY: the caller's promise.
            let words = unsafe { _mm512_loadu_si512(block.as_ptr().add(at * BLOCK).cast()) };
            let bits = _mm512_set1_epi64(bits.cast_signed());
            for (sum, weights) in sums.iter_mut().zip(weights) {
                let weighed = differing(words, bits, _mm512_set1_epi64(weights.cast_signed()));
                *sum = _mm512_add_epi64(*sum, _mm512_popcnt_epi64(weighed));
            }
        }
        let upper = _mm512_add_epi64(_mm512_slli_epi64::<1>(sums[1]), _mm512_slli_epi64::<2>(sums[2]));
        let mut all = [0u16; BLOCK];
        // SAFETY: eight places are written.
        unsafe {
            _mm_storeu_si128(all.as_mut_ptr().cast(), _mm512_cvtepi64_epi16(_mm512_add_epi64(sums[0], upper)));
        }
        all
    }

    /// As [`super::Marked::distances`].
    ///
    /// # Safety
    ///
    /// The machine has AVX-512 F, BW, VL and VPOPCNTDQ; for eight places of `into` there is a block as long as the probe says.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
    pub(super) unsafe fn distances(probe: &[[u64; 2]], blocks: &[u64], into: &mut [u16]) {
        let mut block = blocks.as_ptr();
        for to in into.chunks_exact_mut(BLOCK) {
            let mut sums = _mm512_setzero_si512();
            for word in probe {
                let [bits, marks] = word.map(|word| _mm512_set1_epi64(word.cast_signed()));
                // SAFETY: the caller's promise.
                let words = unsafe { _mm512_loadu_si512(block.cast()) };
                sums = _mm512_add_epi64(sums, _mm512_popcnt_epi64(differing(words, bits, marks)));
                block = block.wrapping_add(BLOCK);
            }
            // SAFETY: there are eight places.
            unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi64_epi16(sums)) };
        }
    }

    /// As [`super::Marked::nearest`].
    ///
    /// # Safety
    ///
    /// The machine has AVX-512 F, BW, VL and VPOPCNTDQ; the probe has `W` words, and there is a block of as many for each place of
    /// `near`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
    pub(super) unsafe fn nearest<const W: usize>(probe: &[[u64; 2]], blocks: &[u64], most: u16, near: &mut [u8]) {
        let most = _mm512_set1_epi64(most.into());
        let probe: [[__m512i; 2]; W] =
            std::array::from_fn(|at| probe[at].map(|word| _mm512_set1_epi64(word.cast_signed())));
        let mut block = blocks.as_ptr();
        for near in near {
            let mut sums = _mm512_setzero_si512();
            for [bits, marks] in probe {
                // SAFETY: the caller's promise.
                let words = unsafe { _mm512_loadu_si512(block.cast()) };
                sums = _mm512_add_epi64(sums, _mm512_popcnt_epi64(differing(words, bits, marks)));
                block = block.wrapping_add(BLOCK);
            }
            *near = _mm512_cmple_epu64_mask(sums, most);
        }
    }

    /// As [`super::Weighed::refine`], of the blocks that are listed.
    ///
    /// # Safety
    ///
    /// The machine has AVX-512 F, BW, VL and VPOPCNTDQ; the probe has `W` words, there is a block of as many for each place of
    /// `near`, and what is listed are such places.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
    pub(super) unsafe fn refine<const W: usize>(
        probe: &[[u64; 1 + WEIGHT_BITS]],
        blocks: &[u64],
        most: u16,
        listed: &[u8],
        near: &mut [u8],
    ) {
        let most = _mm512_set1_epi64(most.into());
        let probe: [[__m512i; 1 + WEIGHT_BITS]; W] =
            std::array::from_fn(|at| probe[at].map(|word| _mm512_set1_epi64(word.cast_signed())));
        for at in listed.iter().map(|at| usize::from(*at)) {
            let mut sums = [_mm512_setzero_si512(); WEIGHT_BITS];
            for (word, [bits, weights @ ..]) in probe.iter().enumerate() {
                // SAFETY: the caller's promise.
                let words = unsafe { _mm512_loadu_si512(blocks.as_ptr().add((at * W + word) * BLOCK).cast()) };
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_add_epi64(*sum, _mm512_popcnt_epi64(differing(words, *bits, *weights)));
                }
            }
            let upper = _mm512_add_epi64(_mm512_slli_epi64::<1>(sums[1]), _mm512_slli_epi64::<2>(sums[2]));
            near[at] &= _mm512_cmple_epu64_mask(_mm512_add_epi64(sums[0], upper), most);
        }
    }

    /// The bits in which words differ, where they are marked.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn differing(words: __m512i, bits: __m512i, marks: __m512i) -> __m512i {
        /// (a ^ b) & c: set for 011 and 101.
        const XOR_AND: i32 = 1 << 0b011 | 1 << 0b101;
        _mm512_ternarylogic_epi64::<XOR_AND>(words, bits, marks)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_path_counts_the_same(
            words in 1usize..=WORDS,
            blocks in 0usize..5,
            most in 0u16..600,
            alike in any::<bool>(),
            seed in proptest::collection::vec(any::<u64>(), 101),
        ) {
            let word = |at: usize| if alike { if at % 7 < 2 { !0 } else { 0 } } else { seed[at * 3 % seed.len()] };
            let probe: Vec<u64> = (0..words).map(word).collect();
            let rows: Vec<u64> = (0..words * blocks * BLOCK).map(|at| word(at + words)).collect();
            let weight = |bit: usize| (seed[bit % seed.len()] % 8) as u8;
            let bit = |bit: usize| probe[bit / 64] >> (bit % 64) & 1 == 1;
            let weighed = Weighed::new((0..words * 64).map(|at| (bit(at), weight(at))));
            let marked = Marked::new((0..words * 64).map(|at| (bit(at), weight(at) > 2)));
            for isa in Isa::available() {
                for block in rows.chunks_exact(words * BLOCK) {
                    let expected: [u16; BLOCK] = std::array::from_fn(|row| {
                        let differs = |bit: &usize| (block[bit / 64 * BLOCK + row] ^ probe[bit / 64]) >> (bit % 64) & 1 == 1;
                        (0..words * 64).filter(differs).map(|bit| u16::from(weight(bit))).sum()
                    });
                    prop_assert_eq!(weighed.distances(*isa, block), expected, "{:?}", isa);
                }
                let mut found = vec![u16::MAX; blocks * BLOCK];
                let mut near = vec![0; blocks];
                marked.distances(*isa, &rows, &mut found);
                marked.nearest(*isa, &rows, most, &mut near);
                let mut refined = near.clone();
                weighed.refine(*isa, &rows, 3 * most, &mut refined);
                for (block, (near, refined)) in rows.chunks_exact(words * BLOCK).zip(near.iter().zip(refined)) {
                    let weighed = weighed.distances(Isa::Portable, block);
                    let expected = (0..BLOCK).filter(|row| weighed[*row] <= 3 * most).map(|row| 1u8 << row).sum::<u8>();
                    prop_assert_eq!(refined, near & expected, "{:?}", isa);
                }
                for (row, found) in found.into_iter().enumerate() {
                    let (block, lane) = (row / BLOCK, row % BLOCK);
                    let words: Vec<u64> = (0..words).map(|at| rows[(block * words + at) * BLOCK + lane]).collect();
                    let differs = |at: &usize| weight(*at) > 2 && (words[at / 64] >> (at % 64) & 1 == 1) != bit(*at);
                    let expected = (0..words.len() * 64).filter(differs).count();
                    prop_assert_eq!(usize::from(found), expected, "{:?}", isa);
                    prop_assert_eq!(usize::from(marked.distance_to(&words)), expected);
                    prop_assert_eq!(near[block] >> lane & 1 == 1, found <= most, "{:?}", isa);
                }
            }
        }
    }
}
