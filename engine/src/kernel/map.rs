//! Feature maps of the CPU networks and the memory they lie in.
//!
//! A [`Map`] is channels last with a frame of zeros around each image, wide enough for the padding of whatever reads it, so
//! that no kernel ever asks whether a pixel is inside. Its memory is aligned to a cache line, comes from a [`Pool`] and goes
//! back there when the map is dropped: fresh memory would have to be zeroed by the operating system, page by page, for
//! every layer.

use std::marker::PhantomData;
use std::sync::Arc;

use parking_lot::Mutex;

/// Words that a pool keeps, all buffers together: what a batch of a large network takes.
const KEPT: usize = 40 << 20;

/// A cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Memory aligned to a cache line.
#[derive(Debug, Default, Clone)]
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    /// Zeros for at least so many 32-bit words.
    pub(crate) fn words(words: usize) -> Self {
        Self(vec![Line([0; 16]); words.div_ceil(16)])
    }

    /// Makes it at least so large. What it holds is of no meaning afterwards, but initialised.
    pub(crate) fn reserve(&mut self, words: usize) {
        let lines = words.div_ceil(16);
        if self.0.len() < lines {
            self.0 = vec![Line([0; 16]); lines];
        }
    }

    /// Size in words.
    pub(crate) fn len(&self) -> usize {
        self.0.len() * 16
    }

    pub(crate) fn as_ptr(&self) -> *const u32 {
        self.0.as_ptr().cast()
    }

    /// All words.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u32] {
        let len = self.len();
        // SAFETY: a line is sixteen words without padding, and the vector is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), len) }
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u32 {
        self.0.as_mut_ptr().cast()
    }
}

/// What a map consists of.
pub(crate) trait Value: Copy + Send + Sync + 'static {
    /// Values in a word of 32 bits.
    const PER_WORD: usize;
}

impl Value for f32 {
    const PER_WORD: usize = 1;
}

/// Half of a 32-bit float, the upper one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Bf16(pub(crate) u16);

impl Value for Bf16 {
    const PER_WORD: usize = 2;
}

/// Memory that maps of a network take in turn.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Mutex<Vec<Lines>>,
    /// Words that are kept, all free buffers together.
    kept: usize,
    /// Whether a buffer is only taken for a map that nearly fills it.
    closely: bool,
}

impl Default for Pool {
    fn default() -> Self {
        Self { free: Mutex::default(), kept: KEPT, closely: false }
    }
}

impl Pool {
    /// A pool for work that holds many maps of very different sizes at a time, and the same ones again in the next
    /// step: a small map must not sit in the memory of a large one. It keeps so many words.
    pub(crate) fn closely(kept: usize) -> Self {
        Self { free: Mutex::default(), kept, closely: true }
    }

    /// The smallest free buffer that is large enough, else the largest one, grown. A close pool takes what is too large by a
    /// quarter at most, else new memory.
    fn take(&self, words: usize) -> Lines {
        let mut free = self.free.lock();
        let fits = |lines: &Lines| !self.closely || (words..=words + words / 4 + 64).contains(&lines.len());
        let fit = |(at, lines): (usize, &Lines)| (lines.len() < words, lines.len().abs_diff(words), at);
        let best = free.iter().enumerate().filter(|(_, lines)| fits(lines)).map(fit).min().map(|(_, _, at)| at);
        let mut lines = best.map(|at| free.remove(at)).unwrap_or_default();
        drop(free);
        lines.reserve(words);
        lines
    }

    fn give(&self, lines: Lines) {
        let mut free = self.free.lock();
        let mut held = free.iter().map(Lines::len).sum::<usize>() + lines.len();
        // Sizes change with the batch: what has been free for longest is the least likely to be asked for.
        while self.closely && held > self.kept && !free.is_empty() {
            held -= free.remove(0).len();
        }
        if held <= self.kept {
            free.push(lines);
        }
    }

    /// A map whose frame is zero and whose values are yet to be written.
    pub(crate) fn map<V: Value>(self: &Arc<Self>, shape: [usize; 4], frame: usize) -> Map<V> {
        let [images, height, width, channels] = shape;
        let values = images * (height + 2 * frame) * (width + 2 * frame) * channels;
        // Kernels read whole words, and the last image's last pixel may be followed by part of one.
        let lines = self.take(values.div_ceil(V::PER_WORD) + 16);
        let mut map = Map { lines, images, height, width, channels, frame, pool: Arc::clone(self), value: PhantomData };
        map.clear_frame();
        map
    }
}

/// A feature map (N, H, W, C) with `frame` zeros on all four sides of each image.
#[derive(Debug)]
pub(crate) struct Map<V: Value> {
    lines: Lines,
    pub(crate) images: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) frame: usize,
    pool: Arc<Pool>,
    value: PhantomData<V>,
}

impl<V: Value> Map<V> {
    /// (N, H, W, C).
    pub(crate) fn shape(&self) -> [usize; 4] {
        [self.images, self.height, self.width, self.channels]
    }

    /// Values of a row with its frame.
    pub(crate) fn pitch(&self) -> usize {
        (self.width + 2 * self.frame) * self.channels
    }

    /// Rows of an image with its frame.
    pub(crate) fn rows(&self) -> usize {
        self.height + 2 * self.frame
    }

    /// The same values with the outermost pixels taken for the frame: of this, a convolution with a zero around makes what
    /// one without makes of the map as it was. For maps without a frame, of more than two pixels in both directions.
    pub(crate) fn framed(mut self) -> candle_core::Result<Self> {
        if self.frame != 0 || self.height.min(self.width) < 3 {
            candle_core::bail!("{:?} in a frame of {} cannot give one", self.shape(), self.frame)
        }
        (self.height, self.width, self.frame) = (self.height - 2, self.width - 2, 1);
        Ok(self)
    }

    /// Where a pixel begins, in values. `row` and `column` count from the corner of the frame.
    pub(crate) fn at(&self, image: usize, row: usize, column: usize) -> usize {
        (image * self.rows() + row) * self.pitch() + column * self.channels
    }

    /// Values, frames included.
    pub(crate) fn len(&self) -> usize {
        self.images * self.rows() * self.pitch()
    }

    /// All values, frames included.
    pub(crate) fn values(&self) -> &[V] {
        // SAFETY: the buffer holds at least `len` values (see `Pool::map`), all bits of it are initialised, and every
        // bit pattern is a value of the two types that are `Value`s; its alignment is larger than theirs.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len()) }
    }

    /// Where the values begin. Behind the last one a register's worth of memory may be read.
    pub(crate) fn start(&self) -> *const V {
        self.lines.as_ptr().cast()
    }

    /// All values, frames included; who writes leaves the frames zero.
    pub(crate) fn values_mut(&mut self) -> &mut [V] {
        let len = self.len();
        // SAFETY: as in `values`, and the map is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }

    /// The rows of an image without the frame.
    pub(crate) fn lines(&self, image: usize) -> impl Iterator<Item = &[V]> {
        let first = self.at(image, self.frame, self.frame);
        let (pitch, used) = (self.pitch(), self.width * self.channels);
        (0..self.height).map(move |row| &self.values()[first + row * pitch..][..used])
    }

    fn clear_frame(&mut self) {
        if self.frame == 0 {
            return;
        }
        let (rows, pitch, side, height) = (self.rows(), self.pitch(), self.frame * self.channels, self.height);
        let frame = self.frame;
        let len = self.len();
        // SAFETY: the buffer holds at least `len` values of size V (see `Pool::map`).
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast::<u8>(), len * size_of::<V>()) };
        let scale = size_of::<V>();
        for image in bytes.chunks_exact_mut(rows * pitch * scale) {
            let (top, rest) = image.split_at_mut(frame * pitch * scale);
            let (middle, bottom) = rest.split_at_mut(height * pitch * scale);
            top.fill(0);
            bottom.fill(0);
            for row in middle.chunks_exact_mut(pitch * scale) {
                row[..side * scale].fill(0);
                let end = row.len() - side * scale;
                row[end..].fill(0);
            }
        }
    }
}

impl<V: Value> Drop for Map<V> {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.lines));
    }
}

impl Map<f32> {
    /// Row by row, through all images, without the frames.
    pub(crate) fn by_row(&self) -> Rows<'_> {
        Rows { place: self.places(), values: self.values(), channels: self.channels }
    }

    /// Row by row, for several threads with rows of their own.
    pub(crate) fn by_row_mut(&mut self) -> RowsMut<'_> {
        let place = self.places();
        RowsMut { place, first: self.values_mut().as_mut_ptr(), map: PhantomData }
    }

    fn places(&self) -> RowPlaces {
        let [first, image] = [self.at(0, self.frame, self.frame), self.rows() * self.pitch()];
        RowPlaces { first, image, pitch: self.pitch(), height: self.height, line: self.width * self.channels }
    }
}

/// Where rows lie in a map.
#[derive(Clone, Copy)]
struct RowPlaces {
    first: usize,
    image: usize,
    pitch: usize,
    height: usize,
    line: usize,
}

impl RowPlaces {
    #[inline(always)]
    fn at(&self, row: usize) -> usize {
        self.first + row / self.height * self.image + row % self.height * self.pitch
    }
}

/// The rows of a map without its frames, counted through all images.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    place: RowPlaces,
    values: &'a [f32],
    pub(crate) channels: usize,
}

impl<'a> Rows<'a> {
    /// One of them: (W, C).
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        &self.values[self.place.at(row)..][..self.place.line]
    }
}

/// The rows of a map that several threads write, each some of them.
#[derive(Clone, Copy)]
pub(crate) struct RowsMut<'a> {
    place: RowPlaces,
    first: *mut f32,
    map: PhantomData<&'a mut Map<f32>>,
}

// SAFETY: rows do not overlap, and `RowsMut::row` has its callers ask for different ones.
unsafe impl Send for RowsMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for RowsMut<'_> {}

impl<'a> RowsMut<'a> {
    /// One of them: (W, C).
    ///
    /// # Safety
    ///
    /// The row exists, and nobody else has it.
    #[inline(always)]
    pub(crate) unsafe fn row(&self, row: usize) -> &'a mut [f32] {
        // SAFETY: the row lies in the map, which is borrowed for `'a`; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(self.place.at(row)), self.place.line) }
    }
}
