//! A checkpoint of any form: tensors by name, their values read when they are asked for.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use super::archive::Archive;
use super::legacy::{self, Legacy};
use super::safetensors::Safetensors;
use super::state::{self, Tensors};
use super::tensor::View;
use super::{ImportError, pickle};

/// Most bytes of storages that are held because several tensors lie in them. Where each tensor has its own, as
/// PyTorch writes them, none is.
const MAX_HELD: u64 = 1 << 30;

/// Most values of a tensor that is read on the side.
const FEW: usize = 1024;

/// Where the values of tensors lie.
pub(super) trait Storages {
    /// Bytes of a storage.
    fn bytes(&mut self, storage: &str) -> Result<u64, ImportError>;

    /// Some bytes of a storage.
    fn read(&mut self, storage: &str, range: Range<u64>) -> Result<Vec<u8>, ImportError>;

    /// Verifies what has not been read.
    fn finish(&mut self) -> Result<(), ImportError>;
}

/// Who wrote a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// Lightning's trainer.
    Lightning,
    /// `torch.save` of something else.
    Torch,
    /// A writer of safetensors.
    Safetensors,
}

/// An open checkpoint.
pub(super) struct Checkpoint {
    /// The tensors, or why one cannot be had.
    pub(super) tensors: Tensors,
    /// Who wrote it.
    pub(super) writer: Writer,
    storages: Box<dyn Storages>,
    held: HashMap<String, Held>,
    held_bytes: u64,
}

/// A part of a storage that several tensors lie in.
struct Held {
    first: u64,
    end: u64,
    bytes: Option<Vec<u8>>,
    uses: usize,
}

impl Checkpoint {
    /// Opens a file; its first bytes tell the form.
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let mut start = Vec::new();
        // A pipe would keep whoever opens it waiting.
        if !std::fs::metadata(path).map_err(ImportError::io(path))?.is_file() {
            return Err(ImportError::Unsupported(format!("{} is not a file", path.display())));
        }
        let file = File::open(path).map_err(ImportError::io(path))?;
        file.take(64).read_to_end(&mut start).map_err(ImportError::io(path))?;
        let (tensors, writer, storages): (_, _, Box<dyn Storages>) = if start.starts_with(b"PK") {
            let (archive, values) = Archive::open(path)?;
            let state = state::find(&values)?;
            (state.tensors, writer(state.lightning), Box::new(archive))
        } else if legacy::is_legacy(&start) {
            let (legacy, values) = Legacy::open(path)?;
            let state = state::find(&values)?;
            (state.tensors, writer(state.lightning), Box::new(legacy))
        } else if is_safetensors(&start) {
            let (file, tensors) = Safetensors::open(path)?;
            (tensors, Writer::Safetensors, Box::new(file))
        } else {
            return Err(unknown(path));
        };
        Ok(Self { tensors, writer, storages, held: HashMap::new(), held_bytes: 0 })
    }

    /// Tells which tensors will be read, so that what they share is read once. Checks their storages' sizes.
    pub(super) fn plan(&mut self, names: &[String]) -> Result<(), ImportError> {
        let mut parts: HashMap<String, Held> = HashMap::new();
        for name in names {
            let view = self.view(name)?;
            let (first, end) = view.span();
            let bytes = self.storages.bytes(&view.storage)?;
            if view.storage_values.checked_mul(view.dtype.bytes()) != Some(bytes) {
                let problem = format!("its storage has {bytes} bytes, which is not what its description says");
                return Err(ImportError::Tensor { name: name.clone(), problem });
            }
            let part = parts.entry(view.storage).or_insert(Held { first, end, bytes: None, uses: 0 });
            (part.first, part.end, part.uses) = (part.first.min(first), part.end.max(end), part.uses + 1);
        }
        parts.retain(|_, part| part.uses > 1);
        self.held = parts;
        Ok(())
    }

    fn view(&self, name: &str) -> Result<View, ImportError> {
        let wrong = |problem: &str| ImportError::Tensor { name: name.to_owned(), problem: problem.to_owned() };
        match self.tensors.get(name) {
            Some(Ok(view)) => Ok(view.clone()),
            Some(Err(problem)) => Err(wrong(problem)),
            None => Err(wrong("it is missing")),
        }
    }

    /// Gives the values of a tensor as f32, row-major, some at a time.
    pub(super) fn each(
        &mut self,
        name: &str,
        give: impl FnMut(&[f32]) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let view = self.view(name)?;
        let Some(held) = self.held.get_mut(&view.storage) else {
            let (first, end) = view.span();
            let bytes = self.storages.read(&view.storage, first..end)?;
            return view.each(name, &bytes, first, give);
        };
        if held.bytes.is_none() {
            self.held_bytes += held.end - held.first;
            if self.held_bytes > MAX_HELD {
                let problem = "too many tensors share storages; save them one by one".to_owned();
                return Err(ImportError::Tensor { name: name.to_owned(), problem });
            }
            held.bytes = Some(self.storages.read(&view.storage, held.first..held.end)?);
        }
        view.each(name, held.bytes.as_deref().unwrap_or_default(), held.first, give)?;
        held.uses = held.uses.saturating_sub(1);
        if held.uses == 0 {
            self.held_bytes -= held.end - held.first;
            held.bytes = None;
        }
        Ok(())
    }

    /// All values of a tensor of few, which need not be in the plan.
    pub(super) fn values_of(&mut self, name: &str) -> Result<Vec<f32>, ImportError> {
        let view = self.view(name)?;
        if view.values() > FEW {
            let problem = "it has more values than expected".to_owned();
            return Err(ImportError::Tensor { name: name.to_owned(), problem });
        }
        self.values(name)
    }

    /// All values of a tensor.
    pub(super) fn values(&mut self, name: &str) -> Result<Vec<f32>, ImportError> {
        let mut values = Vec::new();
        self.each(name, |some| {
            values.extend_from_slice(some);
            Ok(())
        })?;
        Ok(values)
    }

    /// Verifies the rest of the file.
    pub(super) fn finish(&mut self) -> Result<(), ImportError> {
        self.storages.finish()
    }
}

fn writer(lightning: bool) -> Writer {
    if lightning { Writer::Lightning } else { Writer::Torch }
}

/// A header's length below 2^40, then a JSON object.
fn is_safetensors(start: &[u8]) -> bool {
    start.len() > 8 && start[5..8] == [0; 3] && start[8] == b'{'
}

/// The error for a file of no known form. One that is a pickle is read as far as it goes, because a hostile one should
/// be called that.
fn unknown(path: &Path) -> ImportError {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(pickle::MAX_BYTES as u64).read_to_end(&mut start));
    match read.map(|_| pickle::read(&start)) {
        Err(source) => ImportError::Io { path: path.to_path_buf(), source },
        Ok(Err(error @ (pickle::PickleError::Forbidden { .. } | pickle::PickleError::Call(_)))) => error.into(),
        Ok(Ok(_)) => ImportError::Unsupported(
            "the file is a bare pickle, not one of PyTorch; load it in Python and save its tensors with torch.save"
                .into(),
        ),
        Ok(Err(_)) => ImportError::Unknown,
    }
}
