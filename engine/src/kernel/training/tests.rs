//! Each instruction set against plain loops in double precision.

use proptest::prelude::*;

use super::*;
use crate::model::fill;

fn values(stream: u32, count: usize) -> Vec<f32> {
    (0..count as u32).map(|index| 2.0 * fill::uniform(stream, index) as f32 - 1.0).collect()
}

/// Features from (N, H, W, C), the rest of whose memory is no zeros.
fn features(workspace: &Workspace, shape: [usize; 4], frame: usize, pixels: &[f32]) -> Features {
    let mut map = workspace.map(shape, frame);
    let line = shape[2] * shape[3];
    super::normalize::write_rows(&mut map, |row, to| to.copy_from_slice(&pixels[row * line..][..line]));
    Features(map)
}

/// A sum and the sum of its terms' magnitudes.
type Sum = [f64; 2];

fn add(sum: &mut Sum, a: f32, b: f32) {
    let product = f64::from(a) * f64::from(b);
    sum[0] += product;
    sum[1] += product.abs();
}

/// Output, gradient of the input and gradient of the weight.
fn plain(geometry: &Geometry, shape: [usize; 4], x: &[f32], weight: &[f32], gradient: &[f32]) -> [Vec<Sum>; 3] {
    let [images, height, width, input] = shape;
    let [_, rows, columns, output] = geometry.output_shape(shape).unwrap();
    let Geometry { kernel, stride, padding: [before, _], channelwise, .. } = *geometry;
    let mut of_output = vec![[0.0; 2]; images * rows * columns * output];
    let mut of_input = vec![[0.0; 2]; x.len()];
    let mut of_weight = vec![[0.0; 2]; weight.len()];
    for at in 0..of_output.len() {
        let of = at % output;
        let (column, row, image) = (at / output % columns, at / output / columns % rows, at / output / columns / rows);
        for (ky, kx) in (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (ky, kx))) {
            let (Some(y), Some(x_at)) =
                ((row * stride + ky).checked_sub(before), (column * stride + kx).checked_sub(before))
            else {
                continue;
            };
            if y >= height || x_at >= width {
                continue;
            }
            for from in if channelwise { of..of + 1 } else { 0..input } {
                let read = ((image * height + y) * width + x_at) * input + from;
                let tap = if channelwise { of * kernel * kernel } else { (of * input + from) * kernel * kernel };
                let tap = tap + ky * kernel + kx;
                add(&mut of_output[at], x[read], weight[tap]);
                add(&mut of_input[read], gradient[at], weight[tap]);
                add(&mut of_weight[tap], gradient[at], x[read]);
            }
        }
    }
    [of_output, of_input, of_weight]
}

fn close(what: &str, found: &[f32], expected: &[Sum]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, [sum, size])) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - sum).abs();
        assert!(error <= 1e-6 * (size + 1e-3), "{what} {at}: {found} for {sum}");
    }
}

fn check(geometry: Geometry, shape: [usize; 4]) {
    let x = values(1, shape.iter().product());
    let weight = values(2, geometry.weights());
    let to = geometry.output_shape(shape).unwrap();
    let gradient = values(3, to.iter().product());
    let expected = plain(&geometry, shape, &x, &weight, &gradient);
    for isa in crate::kernel::isa::Isa::available() {
        let workspace = Workspace::new(*isa);
        // Memory that others have left behind.
        for _ in 0..3 {
            drop(features(&workspace, [1, 1, 1, 40_000], 0, &vec![f32::NAN; 40_000]));
        }
        // Frames wider than need be as well.
        for more in [0, 1] {
            let side = [shape[1], shape[2]];
            let input = features(&workspace, shape, geometry.frame() + more, &x);
            let of_output = features(&workspace, to, geometry.gradient_frame(side) + more, &gradient);
            close("output", &workspace.convolve(&geometry, &input, &weight).unwrap().to_vec(), &expected[0]);
            let of_input = workspace.input_gradient(&geometry, &of_output, &weight, side).unwrap();
            close("input", &of_input.to_vec(), &expected[1]);
            let mut sums = vec![0f32; weight.len()];
            workspace.weight_gradient(&geometry, &input, &of_output, &mut sums).unwrap();
            close("weight", &sums, &expected[2]);
            // Gradients add up.
            let once = sums.clone();
            workspace.weight_gradient(&geometry, &input, &of_output, &mut sums).unwrap();
            assert!(sums.iter().zip(&once).all(|(twice, once)| *twice == 2.0 * once));
        }
    }
}

fn full(kernel: usize, stride: usize, padding: [usize; 2], [input, output]: [usize; 2]) -> Geometry {
    Geometry { kernel, stride, padding, input, output, channelwise: false }
}

#[test]
fn convolutions_of_the_networks() {
    check(full(3, 1, [1, 1], [3, 64]), [2, 9, 11, 3]);
    check(full(3, 1, [1, 1], [64, 64]), [2, 7, 7, 64]);
    check(full(3, 2, [1, 1], [32, 40]), [2, 14, 14, 32]);
    check(full(3, 2, [0, 1], [16, 33]), [1, 12, 8, 16]);
    check(full(1, 2, [0, 0], [48, 64]), [2, 8, 8, 48]);
    check(full(1, 1, [0, 0], [20, 70]), [3, 5, 5, 20]);
    // A linear layer over a whole map.
    check(full(7, 7, [0, 0], [24, 50]), [3, 7, 7, 24]);
    for (kernel, stride, padding, side) in
        [(3, 1, [1, 1], 9), (3, 2, [1, 1], 14), (3, 2, [0, 1], 14), (7, 1, [0, 0], 7)]
    {
        let geometry = Geometry { kernel, stride, padding, input: 37, output: 37, channelwise: true };
        check(geometry, [2, side, side + kernel % 2, 37]);
    }
}

/// Long sums: many pieces, in several parts.
#[test]
fn sums_over_many_pixels() {
    check(full(3, 1, [1, 1], [5, 34]), [3, 40, 40, 5]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_convolution(
        kernel in 1usize..=4,
        stride in 1usize..=3,
        [before, after] in [0usize..4, 0usize..4],
        [input, output] in [1usize..40, 1usize..70],
        [images, height, width] in [1usize..3, 4usize..12, 4usize..12],
        channelwise in any::<bool>(),
    ) {
        let padding = [before.min(kernel - 1), after.min(kernel - 1)];
        let output = if channelwise { input } else { output };
        check(Geometry { kernel, stride, padding, input, output, channelwise }, [images, height, width, input]);
    }

    #[test]
    fn any_normalisation(
        [images, height, width, channels] in [1usize..4, 1usize..30, 1usize..9, 1usize..40],
        stride in 1usize..=2,
        of_batch in any::<bool>(),
        frames in [0usize..2, 0usize..2],
        offset in -20.0f32..20.0,
    ) {
        prop_assume!(images * height * width > 3);
        normalisation([images, height, width, channels], stride, of_batch, frames, offset);
    }
}

/// Numbers as the tests compute them.
fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

fn near(what: &str, found: impl IntoIterator<Item = f64>, expected: &[f64], within: f64) {
    let size = expected.iter().fold(1e-3f64, |most, value| most.max(value.abs()));
    let found: Vec<f64> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= within * size, "{what} {at}: {found} for {expected}");
    }
}

fn normalisation(shape: [usize; 4], stride: usize, of_batch: bool, frames: [usize; 2], offset: f32) {
    let [images, height, width, channels] = shape;
    let count = images * height * width;
    let x: Vec<f32> = values(1, count * channels).iter().map(|value| value + offset).collect();
    let (gradient, weight, bias, slopes) =
        (values(2, count * channels), values(3, channels), values(4, channels), values(5, channels));
    let large = [images, height * stride, width * stride, channels];
    let (above, below) =
        (values(6, large.iter().product()), [images, height.div_ceil(stride), width.div_ceil(stride), channels]);
    let other = values(7, below.iter().product());
    let (x64, w64, b64, s64, g64) =
        (doubles(&x), doubles(&weight), doubles(&bias), doubles(&slopes), doubles(&gradient));
    let over = |at: usize, of: &dyn Fn(usize) -> f64| (0..count).map(|pixel| of(pixel * channels + at)).sum::<f64>();
    let mean: Vec<f64> = (0..channels).map(|at| over(at, &|i| x64[i]) / count as f64).collect();
    let variance: Vec<f64> =
        (0..channels).map(|at| over(at, &|i| (x64[i] - mean[at]).powi(2)) / count as f64).collect();
    // Constants that are not the batch's own.
    let (mean_used, variance_used): (Vec<f64>, Vec<f64>) = if of_batch {
        (mean.clone(), variance.clone())
    } else {
        (mean.iter().map(|mean| mean + 0.3).collect(), variance.iter().map(|variance| variance + 0.5).collect())
    };
    let inverse: Vec<f64> = variance_used.iter().map(|variance| (variance + 1e-5).sqrt().recip()).collect();
    let hat = |i: usize| (x64[i] - mean_used[i % channels]) * inverse[i % channels];
    let z = |i: usize| hat(i) * w64[i % channels] + b64[i % channels];
    // At a kink the gradient may be either.
    if (0..x.len()).any(|i| z(i).abs() < 1e-4) {
        return;
    }
    let of_z = |i: usize| if z(i) > 0.0 { g64[i] } else { g64[i] * s64[i % channels] };
    let sums: [Vec<f64>; 3] = [
        (0..channels).map(|at| over(at, &|i| of_z(i) * hat(i))).collect(),
        (0..channels).map(|at| over(at, &of_z)).collect(),
        (0..channels).map(|at| over(at, &|i| if z(i) > 0.0 { 0.0 } else { g64[i] * z(i) })).collect(),
    ];
    let place = |i: usize| [i / channels / width / height, i / channels / width % height, i / channels % width];
    let output: Vec<f64> = (0..x.len())
        .map(|i| {
            let [image, row, column] = place(i);
            let at = ((image * large[1] + row * stride) * large[2] + column * stride) * channels + i % channels;
            (if z(i) > 0.0 { z(i) } else { z(i) * s64[i % channels] }) + f64::from(above[at])
        })
        .collect();
    let of_x: Vec<f64> = (0..x.len())
        .map(|i| {
            let at = i % channels;
            let through = if of_batch { (sums[1][at] + hat(i) * sums[0][at]) / count as f64 } else { 0.0 };
            let [image, row, column] = place(i);
            let hit = row.is_multiple_of(stride) && column.is_multiple_of(stride);
            let from = ((image * below[1] + row / stride) * below[2] + column / stride) * channels + at;
            w64[at] * inverse[at] * (of_z(i) - through) + if hit { f64::from(other[from]) } else { 0.0 }
        })
        .collect();
    for isa in crate::kernel::isa::Isa::available() {
        let workspace = Workspace::new(*isa);
        let input = features(&workspace, shape, frames[0], &x);
        let moments = workspace.moments(&input);
        near("mean", moments.mean.iter().copied(), &mean, 1e-6);
        near("variance", moments.variance.iter().copied(), &variance, 1e-5 * (1.0 + f64::from(offset.abs())));
        let norm = if of_batch {
            Norm::of_batch(&moments, Some(&weight), Some(&bias))
        } else {
            Norm::constant(&mean_used, &variance_used, Some(&weight), Some(&bias))
        };
        let shortcut = features(&workspace, large, frames[1], &above);
        let added = Added { features: &shortcut, stride, norm: None };
        let activated = workspace.activate(&input, &norm, Some(&slopes), Some(added), frames[1]).unwrap();
        let within = 1e-5 * (1.0 + f64::from(offset.abs()));
        near("output", doubles(&activated.to_vec()), &output, within);
        let of_output = features(&workspace, shape, frames[1], &gradient);
        let found = workspace.sums(&of_output, &input, &norm, Some(&slopes)).unwrap();
        near("weight", found.weight.iter().copied(), &sums[0], 10.0 * within);
        near("bias", found.bias.iter().copied(), &sums[1], within);
        near("slopes", found.slopes.iter().copied(), &sums[2], 10.0 * within);
        let other = features(&workspace, below, frames[0], &other);
        let spread =
            workspace.spread(&of_output, &input, (&norm, Some(&slopes)), &found, Some((&other, stride)), frames[1]);
        near("input", doubles(&spread.unwrap().to_vec()), &of_x, 10.0 * within);
    }
}

#[test]
fn a_shortcut_is_normalised_by_its_own_norm() {
    let workspace = Workspace::default();
    let shape = [2, 3, 4, 5];
    let (x, y) = (values(1, 120), values(2, 120));
    let (x, y) = (features(&workspace, shape, 0, &x), features(&workspace, shape, 1, &y));
    let norm = |features: &Features| Norm::of_batch(&workspace.moments(features), None, None);
    let (of_x, of_y) = (norm(&x), norm(&y));
    let alone = |features: &Features, norm: &Norm| workspace.activate(features, norm, None, None, 0).unwrap().to_vec();
    let added = Added { features: &y, stride: 1, norm: Some(&of_y) };
    let both = workspace.activate(&x, &of_x, None, Some(added), 1).unwrap();
    let sums: Vec<f32> = alone(&x, &of_x).iter().zip(alone(&y, &of_y)).map(|(x, y)| x + y).collect();
    near("sum", doubles(&both.to_vec()), &doubles(&sums), 1e-6);
    assert!(both.0.values()[..5].iter().all(|value| *value == 0.0), "a frame of zeros");
}

#[test]
fn dropout_keeps_the_mean_and_repeats_itself() {
    let workspace = Workspace::default();
    let shape = [8, 4, 4, 100];
    let dropped = |seed: u64| {
        let mut x = features(&workspace, shape, 1, &vec![1.0; 12_800]);
        workspace.drop_out(&mut x, 0.4, seed);
        x.to_vec()
    };
    let first = dropped(1);
    assert_eq!(first, dropped(1));
    assert_ne!(first, dropped(2));
    assert!(first.iter().all(|value| *value == 0.0 || (value - 1.0 / 0.6).abs() < 1e-6));
    let mean = first.iter().sum::<f32>() / 12_800.0;
    assert!((mean - 1.0).abs() < 0.03, "{mean}");
}

/// The same bits, whatever the number of threads.
#[test]
fn threads_change_nothing() {
    let geometry = full(3, 2, [1, 1], [20, 96]);
    let shape = [3, 21, 20, 20];
    let weight = values(2, geometry.weights());
    let run = || {
        let workspace = Workspace::default();
        let x = features(&workspace, shape, 1, &values(1, shape.iter().product()));
        let y = workspace.convolve(&geometry, &x, &weight).unwrap();
        let moments = workspace.moments(&y);
        let norm = Norm::of_batch(&moments, None, None);
        let sums = workspace.sums(&y, &y, &norm, None).unwrap();
        let side = [shape[1], shape[2]];
        let frame = geometry.gradient_frame(side);
        let gradient = workspace.spread(&y, &y, (&norm, None), &sums, None, frame).unwrap();
        let mut of_weight = vec![0f32; weight.len()];
        workspace.weight_gradient(&geometry, &x, &gradient, &mut of_weight).unwrap();
        let of_input = workspace.input_gradient(&geometry, &gradient, &weight, side).unwrap();
        (moments, sums, of_weight, of_input.to_vec())
    };
    let with = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
    let one = with(1);
    assert!([2, 3, 7].into_iter().all(|threads| with(threads) == one));
}

#[test]
fn what_does_not_fit_is_refused() {
    let workspace = Workspace::default();
    let geometry = full(3, 1, [1, 1], [4, 8]);
    let weight = values(1, geometry.weights());
    let x = features(&workspace, [1, 5, 5, 4], 1, &values(2, 100));
    let bare = features(&workspace, [1, 5, 5, 4], 0, &values(2, 100));
    assert!(workspace.convolve(&geometry, &x, &weight).is_ok());
    assert!(workspace.convolve(&geometry, &bare, &weight).is_err());
    assert!(workspace.convolve(&geometry, &x, &weight[1..]).is_err());
    assert!(workspace.convolve(&full(3, 1, [1, 1], [5, 8]), &x, &weight).is_err());
    assert!(workspace.weight_gradient(&geometry, &x, &x, &mut weight.clone()).is_err());
    assert!(workspace.input_gradient(&geometry, &bare, &weight, [5, 5]).is_err());
    assert!(workspace.planes(&[0.0; 5], [1, 2, 1, 3], 0).is_err());
}
