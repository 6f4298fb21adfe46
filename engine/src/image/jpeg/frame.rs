//! What a JPEG frame consists of: components, blocks, and the scans that they are coded in.

use super::DecodeError;
use super::bits::Fault;

/// Most scans of a file. Encoders write about ten; each makes decoders walk the whole picture, however short it is.
const MAX_SCANS: usize = 256;

/// One component of a frame.
#[derive(Debug, Clone)]
pub(super) struct Component {
    id: u8,
    /// Blocks side by side in a unit of an interleaved scan, 1 to 4.
    across: u32,
    /// Blocks on top of each other in a unit of an interleaved scan, 1 to 4.
    down: u32,
    /// Place of its quantisation table.
    quantisation: u8,
    /// By coefficient: the lowest bit that was coded so far. `None` before the first scan.
    lowest: [Option<u8>; 64],
    /// By block: bit k is set where coefficient k is not zero. Empty until a progressive scan needs it.
    pub(super) known: Vec<u64>,
}

/// Size and components.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    width: u32,
    height: u32,
    pub(super) progressive: bool,
    pub(super) components: Vec<Component>,
    scans: usize,
}

/// A component in a scan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Index in the frame.
    pub(super) component: usize,
    /// Place of the table for DC.
    pub(super) dc: u8,
    /// Place of the table for AC.
    pub(super) ac: u8,
}

/// What a scan holds.
#[derive(Debug, Clone)]
pub(super) struct Scan {
    pub(super) parts: Vec<Part>,
    /// First coefficient.
    pub(super) start: u8,
    /// Last coefficient.
    pub(super) end: u8,
    /// Whether it refines coefficients that an earlier scan brought.
    pub(super) refines: bool,
    /// Lowest bit that it brings.
    pub(super) low: u8,
}

impl Frame {
    /// Reads the segment of a frame whose marker ends in this byte.
    pub(super) fn read(marker: u8, segment: &[u8]) -> Result<Self, DecodeError> {
        let broken = || DecodeError::corrupt("the frame of the JPEG file is broken");
        let (&[_, h1, h0, w1, w0, count], rest) = segment.split_first_chunk::<6>().ok_or_else(broken)?;
        let mut components = vec![];
        for &[id, sampling, quantisation] in rest.as_chunks::<3>().0.iter().take(count.into()) {
            let (across, down) = (u32::from(sampling >> 4), u32::from(sampling & 15));
            if !(1..=4).contains(&across) || !(1..=4).contains(&down) {
                return Err(broken());
            }
            components.push(Component { id, across, down, quantisation, lowest: [None; 64], known: vec![] });
        }
        let (width, height) = (u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into());
        if components.is_empty() || components.len() != usize::from(count) || width == 0 || height == 0 {
            return Err(broken());
        }
        Ok(Self { width, height, progressive: marker == 0xc2, components, scans: 0 })
    }

    /// Reads the segment in front of a scan and notes what the scan brings. Every bit of every coefficient comes once
    /// and from high to low, so the work that a file can ask for is bounded.
    pub(super) fn scan(&mut self, segment: &[u8]) -> Result<Scan, DecodeError> {
        let broken = || DecodeError::corrupt("the head of a scan of the JPEG file is broken");
        let (&count, rest) = segment.split_first().ok_or_else(broken)?;
        let (selectors, rest) = rest.split_at_checked(2 * usize::from(count)).ok_or_else(broken)?;
        let &[start, end, approximation] = rest.first_chunk().ok_or_else(broken)?;
        let mut parts = Vec::<Part>::with_capacity(4);
        for &[id, tables] in selectors.as_chunks::<2>().0 {
            let component = self.components.iter().position(|component| component.id == id).ok_or_else(broken)?;
            if parts.iter().any(|part| part.component == component) {
                return Err(broken());
            }
            parts.push(Part { component, dc: tables >> 4, ac: tables & 15 });
        }
        self.scans += 1;
        if parts.is_empty() || self.scans > MAX_SCANS {
            return Err(broken());
        }
        let (high, low) = (approximation >> 4, approximation & 15);
        // In a sequential frame these fields are fixed, and decoders do not look at them.
        let scan = if self.progressive {
            let band_fits = if start == 0 { end == 0 } else { (start..64).contains(&end) && parts.len() == 1 };
            if !band_fits || low > 13 {
                return Err(broken());
            }
            Scan { parts, start, end, refines: high != 0, low }
        } else {
            Scan { parts, start: 0, end: 63, refines: false, low: 0 }
        };
        for part in &scan.parts {
            let lowest = &mut self.components[part.component].lowest;
            // AC comes after DC.
            if scan.start > 0 && lowest[0].is_none() {
                return Err(broken());
            }
            for lowest in &mut lowest[usize::from(scan.start)..=usize::from(scan.end)] {
                let expected = if scan.refines { Some(high) } else { None };
                if *lowest != expected || scan.refines && high != scan.low + 1 {
                    return Err(broken());
                }
                *lowest = Some(scan.low);
            }
        }
        Ok(scan)
    }

    /// Number of units in a scan, between any two of which a restart marker may stand: blocks for one component, for
    /// several as many blocks of each as its sampling says.
    pub(super) fn units(&self, scan: &Scan) -> usize {
        let across = self.components.iter().map(|component| component.across).max().unwrap_or(1);
        let down = self.components.iter().map(|component| component.down).max().unwrap_or(1);
        let (columns, rows) = match *scan.parts {
            [part] => {
                let component = &self.components[part.component];
                let samples = |side: u32, own: u32, most: u32| (side * own).div_ceil(most);
                let (width, height) =
                    (samples(self.width, component.across, across), samples(self.height, component.down, down));
                (width.div_ceil(8), height.div_ceil(8))
            }
            _ => (self.width.div_ceil(8 * across), self.height.div_ceil(8 * down)),
        };
        columns as usize * rows as usize
    }

    /// Blocks of a component in one unit of a scan.
    pub(super) fn blocks(&self, scan: &Scan, part: &Part) -> usize {
        let component = &self.components[part.component];
        if scan.parts.len() == 1 { 1 } else { (component.across * component.down) as usize }
    }

    /// Whether every component came in at least one scan.
    pub(super) fn is_covered(&self) -> bool {
        self.components.iter().all(|component| component.lowest[0].is_some())
    }
}

/// By place of a quantisation table: its values in the order of coding.
#[derive(Debug, Clone, Default)]
pub(super) struct Quantisation([Option<Steps>; 4]);

/// The sizes of the steps of a component's coefficients, in the order of coding.
pub(super) type Steps = [u16; 64];

impl Quantisation {
    /// Takes over the tables of a segment.
    pub(super) fn define(&mut self, mut segment: &[u8]) -> Result<(), DecodeError> {
        let broken = || DecodeError::corrupt("a quantisation table of the JPEG file is broken");
        while let Some((&place, rest)) = segment.split_first() {
            let mut steps = [0; 64];
            segment = match place >> 4 {
                0 => {
                    let (values, rest) = rest.split_first_chunk::<64>().ok_or_else(broken)?;
                    steps = values.map(u16::from);
                    rest
                }
                1 => {
                    let (values, rest) = rest.split_first_chunk::<128>().ok_or_else(broken)?;
                    for (step, value) in steps.iter_mut().zip(values.as_chunks::<2>().0) {
                        *step = u16::from_be_bytes(*value);
                    }
                    rest
                }
                _ => return Err(broken()),
            };
            *self.0.get_mut(usize::from(place & 15)).ok_or_else(broken)? = Some(steps);
        }
        Ok(())
    }

    /// The steps of a component.
    pub(super) fn steps(&self, component: &Component) -> Result<&Steps, DecodeError> {
        let steps = self.0.get(usize::from(component.quantisation)).and_then(Option::as_ref);
        steps.ok_or_else(|| DecodeError::corrupt("the JPEG file lacks a quantisation table"))
    }
}

impl From<Fault> for DecodeError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Ended => Self::truncated("a scan of the JPEG file ends before the picture does"),
            Fault::BadCode => Self::corrupt("a scan of the JPEG file holds a code that is none"),
            Fault::LongRun => Self::corrupt("a scan of the JPEG file has more coefficients than a block"),
            Fault::LongBlockRun => Self::corrupt("a scan of the JPEG file has a run of blocks past its end"),
            Fault::Brightness => Self::corrupt("a scan of the JPEG file has a brightness that no pixel can have"),
            Fault::Contrast => Self::corrupt("a scan of the JPEG file has a contrast that no pixels can have"),
            Fault::Surplus => Self::corrupt("a scan of the JPEG file holds more than the picture"),
        }
    }
}
