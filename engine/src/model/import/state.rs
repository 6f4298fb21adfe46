//! The state dictionary in a pickle of PyTorch: tensors by name.
//!
//! A tensor is a call of `torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, …)`, where the storage is
//! kept outside of the pickle and described by `("storage", class, key, device, values)`. A training framework puts the
//! dictionary under a key beside what it needs to go on; everything else in the file is passed over.

use std::collections::{BTreeMap, HashMap};

use super::ImportError;
use super::pickle::{Ref, Value, Values};
use super::tensor::{Dtype, View};

/// Keys under which programs save the state dictionary, the most telling first.
const KEYS: &[&str] = &["state_dict", "model_state_dict", "model", "net", "backbone"];
/// Keys that Lightning writes beside it.
const LIGHTNING: &[&str] = &["pytorch-lightning_version", "hyper_parameters", "lr_schedulers", "loops"];
/// How many wrappers a tensor may have, such as that of a parameter.
const MAX_WRAPPERS: usize = 4;

/// Tensors by name, or why a tensor's values cannot be had.
pub(super) type Tensors = BTreeMap<String, Result<View, String>>;

/// What a pickle holds.
#[derive(Debug)]
pub(super) struct State {
    /// The tensors.
    pub(super) tensors: Tensors,
    /// Whether Lightning wrote the file.
    pub(super) lightning: bool,
}

/// Finds the state dictionary.
pub(super) fn find(values: &Values) -> Result<State, ImportError> {
    let root = values.root();
    let nested = KEYS.iter().filter_map(|key| values.item(root, key));
    for at in nested.chain([root]) {
        let tensors = tensors(values, at)?;
        if !tensors.is_empty() {
            let lightning = at != root && LIGHTNING.iter().any(|key| values.item(root, key).is_some());
            return Ok(State { tensors, lightning });
        }
    }
    Err(ImportError::NoTensors)
}

fn tensors(values: &Values, at: Ref) -> Result<Tensors, ImportError> {
    let mut found = Tensors::new();
    for (key, value) in values.items(at).unwrap_or_default() {
        let (Some(name), Some(view)) = (values.text(*key), tensor(values, *value)) else { continue };
        if found.insert(name.to_owned(), view).is_some() {
            return Err(ImportError::Damaged(format!("two tensors are named {name}")));
        }
    }
    Ok(found)
}

/// The view of a value that is a tensor.
fn tensor(values: &Values, mut at: Ref) -> Option<Result<View, String>> {
    for _ in 0..MAX_WRAPPERS {
        let (module, name, arguments) = values.call(at)?;
        let arguments = values.members(arguments)?;
        match (module, name) {
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => at = *arguments.first()?,
            ("torch._tensor", "_rebuild_from_type_v2") => {
                let [function, _, inner, ..] = arguments else { return None };
                return match values.global(*function) {
                    Some(("torch._utils", "_rebuild_tensor_v2")) => Some(view(values, values.members(*inner)?)),
                    _ => Some(Err("it is of a kind that is not read".to_owned())),
                };
            }
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => return Some(view(values, arguments)),
            ("torch._utils", _) if name.starts_with("_rebuild") => {
                return Some(Err(format!("it is of a kind that is not read ({name})")));
            }
            _ => return None,
        }
    }
    None
}

fn view(values: &Values, arguments: &[Ref]) -> Result<View, String> {
    let damaged = || "its description is damaged".to_owned();
    let [storage, offset, shape, strides, ..] = arguments else { return Err(damaged()) };
    let Value::Outside(described) = values.get(*storage) else { return Err(damaged()) };
    let storage = Storage::read(values, *described).ok_or_else(damaged)?;
    let dtype = storage.dtype.ok_or_else(|| format!("its values are of unknown type ({})", storage.class))?;
    let offset = values.int(*offset).ok_or_else(damaged)?;
    let shape = integers(values, *shape).ok_or_else(damaged)?;
    let strides = integers(values, *strides).ok_or_else(damaged)?;
    View::new(storage.key, dtype, storage.values, offset, &shape, &strides)
}

/// A tuple of integers, or a `torch.Size` of one.
fn integers(values: &Values, at: Ref) -> Option<Vec<i64>> {
    let members = match values.call(at) {
        Some(("torch", "Size", arguments)) => values.members(*values.members(arguments)?.first()?)?,
        _ => values.members(at)?,
    };
    members.iter().map(|member| values.int(*member)).collect()
}

/// The description of a storage.
struct Storage<'a> {
    class: &'a str,
    dtype: Option<Dtype>,
    key: &'a str,
    values: u64,
}

impl<'a> Storage<'a> {
    fn read(values: &'a Values, described: Ref) -> Option<Self> {
        let [kind, class, key, _device, count, rest @ ..] = values.members(described)? else { return None };
        let (module, class) = values.global(*class)?;
        // A view of another storage: an old form that nothing writes any more.
        let whole = rest.iter().all(|at| values.get(*at) == &Value::None);
        let known = matches!(module, "torch" | "torch.cuda" | "torch.storage");
        if values.text(*kind) != Some("storage") || !whole || !known {
            return None;
        }
        let count = values.int(*count).and_then(|count| u64::try_from(count).ok())?;
        Some(Self { class, dtype: Dtype::of_storage(class), key: values.text(*key)?, values: count })
    }
}

/// The type of each storage that a pickle refers to.
pub(super) fn storage_types(values: &Values) -> HashMap<String, Option<Dtype>> {
    let described = values.all().filter_map(|value| match value {
        Value::Outside(described) => Storage::read(values, *described),
        _ => None,
    });
    described.map(|storage| (storage.key.to_owned(), storage.dtype)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::pickle::read;
    use super::*;

    const HEAD: &[u8] = b"\x80\x02(X\x01\x00\x00\x00w";

    /// `{"w": _rebuild_tensor_v2(("storage", class, "0", "cpu", count), offset, (rows,), (stride,))}`.
    fn tensor_of(class: &str, count: u8, offset: u8, rows: u8, stride: u8) -> Vec<u8> {
        let mut bytes = HEAD.to_vec();
        bytes.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\n");
        bytes.extend_from_slice(class.as_bytes());
        bytes.extend_from_slice(b"\nU\x010U\x03cpuK");
        bytes.extend_from_slice(&[count, b't', b'Q', b'K', offset, b'K', rows, 0x85, b'K', stride, 0x85]);
        bytes.extend_from_slice(b"\x89NtRd.");
        bytes
    }

    fn found(bytes: &[u8]) -> Result<View, String> {
        find(&read(bytes).unwrap().0).unwrap().tensors.remove("w").unwrap()
    }

    #[test]
    fn tensors_are_found_and_checked() {
        let view = found(&tensor_of("FloatStorage", 12, 2, 5, 2)).unwrap();
        assert_eq!((view.shape.as_slice(), view.storage.as_str(), view.span()), (&[5usize][..], "0", (8, 44)));
        assert!(found(&tensor_of("FloatStorage", 12, 2, 6, 2)).unwrap_err().contains("beyond"));
        assert!(found(&tensor_of("StrangeStorage", 12, 0, 1, 1)).unwrap_err().contains("StrangeStorage"));
        let types = storage_types(&read(&tensor_of("HalfStorage", 12, 0, 1, 1)).unwrap().0);
        assert_eq!(types["0"], Some(Dtype::F16));
    }

    #[test]
    fn what_is_no_tensor_is_passed_over_and_nothing_at_all_is_told() {
        let nothing = |bytes: &[u8]| matches!(find(&read(bytes).unwrap().0), Err(ImportError::NoTensors));
        assert!(nothing(b"}.") && nothing(b"N.") && nothing(b"(U\x01aK\x01d."));
        assert!(nothing(b"(U\x0astate_dict}d."));
        let wrapped = [&b"(U\x01aK\x01"[..], &tensor_of("FloatStorage", 1, 0, 1, 1)[3..]].concat();
        assert_eq!(find(&read(&wrapped).unwrap().0).unwrap().tensors.len(), 1);
    }
}
