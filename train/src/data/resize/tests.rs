//! Every interpolation against OpenCV 4.11.0 (opencv-python-headless on x86-64): `cv2.resize` of [`noise`] with
//! `cv2.ipp.setUseIPP(False)`, so that OpenCV's own code runs, equal in every byte. With Intel's library, which x86
//! packages have, it computes cubic in `f32` throughout: a grey level more or less for one value of twenty in noise.

use super::*;
use crate::data::reference::{digest, noise};

fn resized(from: (usize, usize), to: (usize, usize), interpolation: Interpolation) -> Vec<u8> {
    let size = |(width, height)| Size { width, height };
    resize(&noise(from.0 * from.1 * CHANNELS), size(from), size(to), interpolation)
}

#[test]
#[rustfmt::skip]
fn small_pictures_are_those_of_opencv() {
    // 8x6 to 3x2, 3x2 to 4x4.
    let expected: [(Interpolation, [u8; 18], [u8; 48]); 5] = [
        (Interpolation::Nearest, [216, 90, 19, 122, 65, 53, 107, 185, 145, 44, 176, 160, 24, 138, 119, 79, 225, 172], [216, 90, 19, 216, 90, 19, 68, 198, 242, 122, 65, 53, 216, 90, 19, 216, 90, 19, 68, 198, 242, 122, 65, 53, 54, 188, 188, 54, 188, 188, 224, 185, 208, 107, 185, 145, 54, 188, 188, 54, 188, 188, 224, 185, 208, 107, 185, 145]),
        (Interpolation::Linear, [131, 180, 172, 56, 157, 187, 121, 125, 39, 175, 119, 82, 124, 152, 205, 198, 238, 18], [216, 90, 19, 123, 157, 158, 88, 148, 171, 122, 65, 53, 176, 115, 61, 133, 165, 169, 111, 157, 174, 118, 95, 76, 95, 164, 146, 151, 179, 190, 157, 176, 181, 111, 155, 122, 54, 188, 188, 160, 186, 200, 180, 185, 184, 107, 185, 145]),
        (Interpolation::Area, [106, 112, 117, 104, 133, 136, 123, 138, 59, 153, 162, 77, 116, 150, 160, 150, 160, 124], [216, 90, 19, 117, 162, 168, 86, 154, 179, 122, 65, 53, 216, 90, 19, 117, 162, 168, 86, 154, 179, 122, 65, 53, 54, 188, 188, 167, 186, 201, 185, 185, 187, 107, 185, 145, 54, 188, 188, 167, 186, 201, 185, 185, 187, 107, 185, 145]),
        (Interpolation::Cubic, [134, 195, 180, 37, 160, 192, 114, 115, 22, 178, 127, 87, 115, 180, 221, 197, 255, 1], [246, 71, 0, 109, 172, 180, 58, 160, 200, 129, 42, 29, 185, 106, 45, 129, 177, 188, 100, 167, 196, 120, 85, 62, 84, 164, 145, 162, 183, 202, 171, 180, 190, 105, 156, 118, 22, 199, 206, 182, 187, 210, 214, 187, 186, 96, 199, 151]),
        (Interpolation::Lanczos4, [131, 200, 180, 30, 164, 189, 112, 112, 24, 185, 127, 92, 114, 203, 218, 187, 255, 1], [249, 67, 0, 106, 175, 184, 53, 162, 205, 133, 38, 22, 187, 103, 39, 128, 179, 192, 98, 169, 200, 122, 82, 57, 80, 164, 144, 164, 184, 204, 174, 180, 191, 102, 156, 117, 18, 200, 206, 186, 187, 211, 219, 187, 186, 91, 200, 152]),
    ];
    for (interpolation, smaller, larger) in expected {
        assert_eq!(resized((8, 6), (3, 2), interpolation), smaller, "{interpolation:?}");
        assert_eq!(resized((3, 2), (4, 4), interpolation), larger, "{interpolation:?}");
    }
}

#[test]
#[rustfmt::skip]
fn crops_are_those_of_opencv() {
    // Of each interpolation, 112 down to the side and from the side up to 112.
    let expected: [(usize, [(u64, u64); 5]); 5] = [
        (22, [(0x29a9_1598_bb93_f3ea, 0x85af_ea02_5f6f_e29b), (0x810c_117d_e894_08d6, 0xa547_f44d_93f8_64d9), (0xc3e7_5138_036b_8044, 0x8823_e62f_300e_ebcd), (0x9fa2_6215_1b7d_6784, 0x81ac_85a6_c1f1_fbc7), (0xa10f_09be_d589_aaed, 0xc63d_c118_661e_a73c)]),
        (28, [(0x5658_f20a_84db_785f, 0xf585_b91b_72e0_6435), (0xe98a_e4e2_85d6_f213, 0x4295_0be7_50d8_d7df), (0x85d2_e97b_e20a_b0de, 0xf585_b91b_72e0_6435), (0x44a0_b339_3283_1e39, 0xcd71_466d_3c9b_aa0d), (0x3798_f0ec_af0e_a514, 0xee5c_8ac1_48b1_5f82)]),
        (56, [(0xec9d_9e0d_f378_5b67, 0x74d1_212e_87de_3bc9), (0xd79d_4b07_ddae_66c6, 0x8c43_264b_0fe1_3b99), (0xd79d_4b07_ddae_66c6, 0x74d1_212e_87de_3bc9), (0xcee4_92e0_bb2e_a219, 0xbcd8_e9ce_8be1_615e), (0xda1a_7e16_809c_1932, 0xe0ca_6982_139a_a72d)]),
        (77, [(0x9575_648f_e210_cd67, 0xac1c_d587_7266_6154), (0x138c_6c2b_cdc0_b463, 0x0d49_20b4_89ca_4e97), (0x0808_9fb1_6ab1_1d55, 0xa103_168b_5f03_903e), (0x20b7_45a4_abdd_9b02, 0xbac5_a124_5621_02e6), (0xaddf_3ec2_a2ea_b117, 0xa45a_a61c_d03e_2397)]),
        (111, [(0xf584_57db_28c5_1df0, 0x73ac_7eb9_b985_5ff0), (0xb821_bb80_4782_939d, 0x812c_5e79_470f_4a66), (0x515c_f94c_e4c0_8ba2, 0xa4d0_7ced_e3cb_c6f4), (0x763f_c60f_b3ed_1e97, 0x06f5_5856_e562_3c17), (0xfa88_6edc_5cbc_31a9, 0xb18f_2ba3_221d_b8a8)]),
    ];
    for (side, digests) in expected {
        for (interpolation, (down, up)) in Interpolation::ALL.into_iter().zip(digests) {
            assert_eq!(digest(&resized((112, 112), (side, side), interpolation)), down, "to {side}, {interpolation:?}");
            assert_eq!(digest(&resized((side, side), (112, 112), interpolation)), up, "from {side}, {interpolation:?}");
        }
    }
}

#[test]
#[rustfmt::skip]
fn other_shapes_are_those_of_opencv() {
    type Sides = (usize, usize);
    let expected: [(Sides, Sides, [u64; 5]); 6] = [
        ((112, 112), (28, 14), [0xe58c_9e06_d285_95e2, 0xeda5_4a71_41c7_7bb4, 0xc172_1164_64f3_69c8, 0x48e4_97f9_4d55_f60e, 0xa138_6e9a_b725_25e1]),
        ((60, 40), (23, 35), [0xa1f7_9f55_b4e2_fc76, 0x55a1_292a_9392_17cf, 0x0b32_2591_fabe_53fc, 0x10d8_ba6c_8643_2053, 0x7d5c_8673_6719_f7c4]),
        ((9, 6), (3, 12), [0x1fe3_5f8f_72b2_845d, 0x30ac_d37f_c593_661a, 0xe73a_cd97_410b_4a23, 0x3a65_67be_101e_ce7b, 0x5f94_189b_3f1a_d076]),
        ((1, 1), (4, 4), [0x96c1_bddf_ff6c_bd35, 0x96c1_bddf_ff6c_bd35, 0x96c1_bddf_ff6c_bd35, 0x96c1_bddf_ff6c_bd35, 0x96c1_bddf_ff6c_bd35]),
        ((250, 180), (112, 112), [0x52f8_2eae_f814_751a, 0x7797_9d03_b16f_15c5, 0xb108_ce7a_6330_56ad, 0xb922_f233_9333_b8ec, 0x5afa_0db4_9672_f079]),
        ((2, 3), (17, 5), [0xb8af_afe5_dfc1_2344, 0xe26e_5166_2272_5b10, 0xc482_e785_5260_d00c, 0xa482_ba2b_db80_bb01, 0x6a70_3790_704d_82db]),
    ];
    for (from, to, digests) in expected {
        for (interpolation, expected) in Interpolation::ALL.into_iter().zip(digests) {
            assert_eq!(digest(&resized(from, to, interpolation)), expected, "{from:?} to {to:?}, {interpolation:?}");
        }
    }
}

#[test]
fn a_picture_of_the_same_size_is_the_same() {
    for interpolation in Interpolation::ALL {
        assert_eq!(resized((9, 4), (9, 4), interpolation), noise(9 * 4 * CHANNELS));
    }
}
