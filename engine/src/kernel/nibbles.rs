//! Products of signed bytes with rows of nibbles: how an index looks at its rows first.
//!
//! A row is values of 0 to 15, two to a byte. 128 values take a block of 64 bytes: byte i holds value i in its lower half and
//! value i + 64 in its upper one. 64 values that are left over take 32 bytes in the same way.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod vnni;

use super::isa::Isa;

/// Rows have a multiple of this many values.
pub(crate) const STEP: usize = 64;
/// Probes that a tile multiplies at a time.
pub(crate) const PROBES: usize = 16;

/// Values of a whole block.
const BLOCK: usize = 2 * STEP;
/// Values of a probe that lie together in a tile.
const GROUP: usize = 4;

/// Appends a row of values of 0 to 15, a multiple of [`STEP`].
pub(crate) fn pack(values: &[u8], into: &mut Vec<u8>) {
    debug_assert!(values.len().is_multiple_of(STEP) && values.iter().all(|value| *value < 16));
    for block in values.chunks(BLOCK) {
        let (lower, upper) = block.split_at(block.len() / 2);
        into.extend(lower.iter().zip(upper).map(|(lower, upper)| lower | upper << 4));
    }
}

/// The values of a row, in order.
#[inline(always)]
fn unpack(row: &[u8], into: &mut [u8]) {
    // Block by block of a length that the compiler knows.
    let (packed, packed_rest) = row.as_chunks::<{ BLOCK / 2 }>();
    let (blocks, rest) = into.as_chunks_mut::<BLOCK>();
    for (packed, into) in packed.iter().zip(blocks) {
        for at in 0..BLOCK / 2 {
            (into[at], into[at + BLOCK / 2]) = (packed[at] & 15, packed[at] >> 4);
        }
    }
    // Rows that are no whole number of blocks end with half a block.
    let half = packed_rest.as_chunks::<{ BLOCK / 4 }>().0;
    for (packed, into) in half.iter().zip(rest.as_chunks_mut::<{ BLOCK / 2 }>().0) {
        for at in 0..BLOCK / 4 {
            (into[at], into[at + BLOCK / 4]) = (packed[at] & 15, packed[at] >> 4);
        }
    }
}

/// The product of `probe` with each row of `rows`, which lie one after the other. The probe is a multiple of [`STEP`] long,
/// 131,072 values at most, and its bytes are −127 to 127, so that no sum on the way is too large.
pub(crate) fn products(isa: Isa, probe: &[i8], rows: &[u8], into: &mut [i32]) {
    assert!(!probe.is_empty() && probe.len().is_multiple_of(STEP) && 2 * rows.len() == probe.len() * into.len());
    debug_assert!(!probe.contains(&i8::MIN));
    match isa {
        // SAFETY: `Isa` values other than `Portable` come from `Isa::available` only, which asks the processor; machines
        // with AVX-512 have AVX2. The lengths were compared above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 if has_vnni() => unsafe { vnni::products(probe, rows, into) },
        // SAFETY: the same.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => unsafe { avx2::products(probe, rows, into) },
        _ => portable(probe, rows, into),
    }
}

/// The product of `probe`, as for [`products`], with the rows of `rows` that are listed, in the order of the list.
pub(crate) fn listed_products(isa: Isa, probe: &[i8], rows: &[u8], listed: &[u16], into: &mut [i32]) {
    let width = probe.len() / 2;
    assert!(!probe.is_empty() && probe.len().is_multiple_of(STEP) && into.len() == listed.len());
    let last = listed.iter().max().map_or(0, |last| usize::from(*last) + 1);
    assert!(last * width <= rows.len());
    match isa {
        // SAFETY: as in `products`; rows that are listed are within `rows`.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 if has_vnni() => unsafe { vnni::listed_products(probe, rows, listed, into) },
        // SAFETY: the same.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => unsafe { avx2::listed_products(probe, rows, listed, into) },
        _ => {
            for (row, product) in listed.iter().zip(into) {
                let start = usize::from(*row) * width;
                portable(probe, &rows[start..start + width], std::slice::from_mut(product));
            }
        }
    }
}

/// Whether the machine multiplies bytes and adds them up in one instruction, which not all with AVX-512 do.
#[cfg(target_arch = "x86_64")]
fn has_vnni() -> bool {
    is_x86_feature_detected!("avx512vnni")
}

fn portable(probe: &[i8], rows: &[u8], into: &mut [i32]) {
    for (row, product) in rows.chunks_exact(probe.len() / 2).zip(into) {
        let mut sum = 0;
        for (packed, probe) in row.chunks(BLOCK / 2).zip(probe.chunks(BLOCK)) {
            let (lower, upper) = probe.split_at(packed.len());
            for ((packed, lower), upper) in packed.iter().zip(lower).zip(upper) {
                sum += i32::from(packed & 15) * i32::from(*lower) + i32::from(packed >> 4) * i32::from(*upper);
            }
        }
        *product = sum;
    }
}

/// Probes that meet each row together.
pub(crate) struct Tile {
    isa: Isa,
    /// In the order in which the machine multiplies. Absent probes are 0.
    codes: Vec<i8>,
    /// Values of a probe.
    length: usize,
}

impl Tile {
    /// Of at most [`PROBES`] probes of the same length, each as [`products`] wants it.
    pub(crate) fn new(isa: Isa, probes: &[&[i8]]) -> Self {
        let length = probes.first().map_or(0, |probe| probe.len());
        assert!(length > 0 && length.is_multiple_of(STEP) && probes.len() <= PROBES);
        assert!(probes.iter().all(|probe| probe.len() == length));
        let mut codes = vec![0; length * PROBES];
        for (number, probe) in probes.iter().enumerate() {
            for (at, code) in probe.iter().enumerate() {
                codes[Self::place(isa, number, at)] = *code;
            }
        }
        Self { isa, codes, length }
    }

    /// Where a value of a probe is: four of the first probe, of the second, and so on, then the next four of each, unless the machine
    /// does better in another order.
    fn place(isa: Isa, probe: usize, value: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if Self::multiplies_whole(isa) {
            return vnni::place(probe, value);
        }
        (value / GROUP * PROBES + probe) * GROUP + value % GROUP
    }

    /// The product of each probe with each row.
    pub(crate) fn products(&self, rows: &[u8], into: &mut [[i32; PROBES]]) {
        assert!(2 * rows.len() == self.length * into.len());
        match self.isa {
            // SAFETY: as in `products`; the codes are as many as the length says, times the probes, in the order for this machine.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 if has_vnni() => unsafe { vnni::tile(&self.codes, self.length, rows, into) },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => unsafe { avx2::tile(&self.codes, self.length, rows, into) },
            _ => self.portable(rows, into),
        }
    }

    /// Whether [`Tile::whole_products`] takes no longer than [`Tile::products`].
    pub(crate) fn multiplies_whole(isa: Isa) -> bool {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 => has_vnni(),
            _ => false,
        }
    }

    /// The product of each probe, at most 65,536 values long, with each row of values of 0 to 255, whose upper halves are packed
    /// in one place and whose lower halves in another.
    pub(crate) fn whole_products(&self, upper_halves: &[u8], lower_halves: &[u8], into: &mut [[i32; PROBES]]) {
        assert!(2 * upper_halves.len() == self.length * into.len() && lower_halves.len() == upper_halves.len());
        debug_assert!(self.length <= 1 << 16);
        #[cfg(target_arch = "x86_64")]
        if Self::multiplies_whole(self.isa) {
            // SAFETY: it says so only where the machine has the instructions; the lengths were compared above.
            return unsafe { vnni::whole_tile(&self.codes, self.length, upper_halves, lower_halves, into) };
        }
        self.products(upper_halves, into);
        let mut lower = vec![[0; PROBES]; into.len()];
        self.products(lower_halves, &mut lower);
        for (sum, lower) in into.as_flattened_mut().iter_mut().zip(lower.as_flattened()) {
            *sum = 16 * *sum + lower;
        }
    }

    fn portable(&self, rows: &[u8], into: &mut [[i32; PROBES]]) {
        let mut values = vec![0u8; self.length];
        for (row, products) in rows.chunks_exact(self.length / 2).zip(into) {
            unpack(row, &mut values);
            let mut sums = [0i32; PROBES];
            for (values, probes) in values.chunks_exact(GROUP).zip(self.codes.chunks_exact(GROUP * PROBES)) {
                for (sum, probe) in sums.iter_mut().zip(probes.chunks_exact(GROUP)) {
                    *sum += values.iter().zip(probe).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum::<i32>();
                }
            }
            *products = sums;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the definition has it.
    fn exact(probe: &[i8], row: &[u8]) -> i32 {
        probe.iter().zip(row).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
    }

    fn packed(rows: &[Vec<u8>]) -> Vec<u8> {
        let mut all = Vec::new();
        rows.iter().for_each(|row| pack(row, &mut all));
        all
    }

    proptest! {
        #[test]
        fn every_path_gives_the_plain_sums(
            steps in 1usize..10,
            count in 0usize..21,
            probes in 1usize..=PROBES,
            extreme in any::<bool>(),
            seed in proptest::collection::vec(any::<u8>(), 997),
        ) {
            let length = steps * STEP;
            let drawn = |at: usize| seed[at * 7 % seed.len()];
            let byte = |at| match drawn(at) {
                value if extreme => if value < 128 { -127 } else { 127 },
                value => (value as i8).max(-127),
            };
            let nibble = |at| if extreme && drawn(at) > 40 { 15 } else { drawn(at) >> 4 };
            let probes: Vec<Vec<i8>> =
                (0..probes).map(|number| (0..length).map(|at| byte(at + 31 * number)).collect()).collect();
            let rows: Vec<Vec<u8>> =
                (0..count).map(|row| (0..length).map(|at| nibble(at + length * row)).collect()).collect();
            let lower_rows: Vec<Vec<u8>> =
                (0..count).map(|row| (0..length).map(|at| nibble(at * 3 + 5 * length * row)).collect()).collect();
            let (plane, lower_plane) = (packed(&rows), packed(&lower_rows));
            prop_assert_eq!(plane.len(), count * length / 2);
            let mut values = vec![0; length];
            for (row, packed) in rows.iter().zip(plane.chunks(length / 2)) {
                unpack(packed, &mut values);
                prop_assert_eq!(row, &values);
            }
            let parts: Vec<&[i8]> = probes.iter().map(Vec::as_slice).collect();
            for isa in Isa::available() {
                let tile = Tile::new(*isa, &parts);
                let mut found = vec![0i32; count];
                products(*isa, &probes[0], &plane, &mut found);
                let expected: Vec<i32> = rows.iter().map(|row| exact(&probes[0], row)).collect();
                prop_assert_eq!(&found, &expected, "{:?}", isa);
                let listed: Vec<u16> = (0..count as u16).rev().filter(|row| row % 3 != 1).collect();
                let mut of_listed = vec![-1i32; listed.len()];
                listed_products(*isa, &probes[0], &plane, &listed, &mut of_listed);
                for (row, found) in listed.iter().zip(of_listed) {
                    prop_assert_eq!(found, expected[usize::from(*row)], "{:?}, listed", isa);
                }
                let mut found = vec![[-1i32; PROBES]; count];
                tile.products(&plane, &mut found);
                for (row, found) in rows.iter().zip(found) {
                    for (number, found) in found.into_iter().enumerate() {
                        let expected = probes.get(number).map_or(0, |probe| exact(probe, row));
                        prop_assert_eq!(found, expected, "{:?}, probe {}", isa, number);
                    }
                }
                let mut found = vec![[-1i32; PROBES]; count];
                tile.whole_products(&plane, &lower_plane, &mut found);
                for ((upper, lower), found) in rows.iter().zip(&lower_rows).zip(found) {
                    for (number, found) in found.into_iter().enumerate() {
                        let whole = |probe: &Vec<i8>| 16 * exact(probe, upper) + exact(probe, lower);
                        prop_assert_eq!(found, probes.get(number).map_or(0, whole), "{:?}, probe {}", isa, number);
                    }
                }
            }
        }
    }

    #[test]
    fn the_longest_rows_do_not_overflow() {
        let (probe, row) = (vec![-127i8; 1 << 17], vec![15u8; 1 << 17]);
        let plane = packed(std::slice::from_ref(&row));
        for isa in Isa::available() {
            let mut found = [0i32];
            products(*isa, &probe, &plane, &mut found);
            assert_eq!(found[0], -((127 * 15) << 17));
        }
    }
}
