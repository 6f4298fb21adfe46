//! Which network a file's tensors belong to, and under which names.
//!
//! Programs put the same tensors under different prefixes, and what they need for training beside them. A file is of a
//! network if, under one of the known prefixes, its tensors are exactly the network's, in name and shape. Only what is
//! known to belong to a loss head is left out; anything else is a difference, and differences are named.

use std::collections::HashSet;

use super::ImportError;
use super::error::{Differences, Misshaped};
use super::state::Tensors;
use crate::model::Architecture;
use crate::model::mobilefacenet::y1;

/// Prefixes of names: none, CVLFace's wrapper and its modules, a Lightning module, data-parallel training.
const PREFIXES: &[&str] = &["", "model.net.", "net.", "model.", "module.model.", "module.", "backbone."];
/// Prefixes of what belongs to a loss, not to the network.
const HEADS: &[&str] = &["head.", "classifier.", "criterion.", "loss.", "margin."];
/// Counters of batch normalisation, which no forward pass reads.
pub(super) const COUNTER: &str = "num_batches_tracked";

/// The form of the tensors in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As the network is loaded.
    Table,
    /// As MobileFaceNet y1 is published; it is folded before it is written.
    PublishedY1,
}

/// What a file was recognised as.
#[derive(Debug)]
pub(super) struct Layout {
    /// The network.
    pub(super) architecture: Architecture,
    /// Length of its embedding.
    pub(super) dim: usize,
    /// What stands before each name.
    pub(super) prefix: &'static str,
    /// The form.
    pub(super) form: Form,
    /// Names without prefix, and shapes, in the order of the network's table.
    pub(super) tensors: Vec<(String, Vec<usize>)>,
    /// Names of the file that are left out, sorted.
    pub(super) left_out: Vec<String>,
}

/// Recognises the tensors of a file as those of `wanted`, or of any network.
pub(super) fn recognise(tensors: &Tensors, wanted: Option<Architecture>) -> Result<Layout, ImportError> {
    let architectures = match &wanted {
        Some(one) => std::slice::from_ref(one),
        None => &Architecture::ALL[..],
    };
    let mut best: Option<(Layout, Differences)> = None;
    for architecture in architectures {
        let published = (*architecture == Architecture::MobilefacenetY1).then_some(Form::PublishedY1);
        for form in [Form::Table].into_iter().chain(published) {
            for prefix in PREFIXES {
                let (layout, difference) = compare(tensors, *architecture, form, prefix);
                if best.as_ref().is_none_or(|(_, least)| difference.count() < least.count()) {
                    best = Some((layout, difference));
                }
            }
        }
    }
    match best {
        Some((layout, difference)) if difference.is_empty() => Ok(layout),
        Some((layout, difference)) if wanted.is_some() || difference.count() * 2 < layout.tensors.len() => {
            Err(ImportError::Tensors { architecture: layout.architecture, difference })
        }
        Some((layout, difference)) => Err(ImportError::UnknownNetwork { nearest: layout.architecture, difference }),
        None => Err(ImportError::NoTensors),
    }
}

fn compare(tensors: &Tensors, architecture: Architecture, form: Form, prefix: &'static str) -> (Layout, Differences) {
    let table = |dim| match form {
        Form::Table => architecture.tensors(dim),
        Form::PublishedY1 => y1::source_tensors(dim),
    };
    let shape = |name: &str| match tensors.get(&format!("{prefix}{name}")) {
        Some(Ok(view)) => Some(view.shape.clone()),
        _ => None,
    };
    let dim = dim(architecture.default_dim(), table, shape);
    let expected = table(dim);
    let mut difference = Differences::default();
    for (name, expected) in &expected {
        let name = format!("{prefix}{name}");
        match tensors.get(&name) {
            None => difference.missing.push(name),
            Some(Ok(view)) if view.shape != *expected => {
                let found = view.shape.clone();
                difference.misshaped.push(Misshaped { name, expected: expected.clone(), found });
            }
            // One whose values cannot be had is told when they are asked for.
            Some(_) => {}
        }
    }
    let known: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    let mut left_out = Vec::new();
    for name in tensors.keys() {
        match name.strip_prefix(prefix) {
            Some(rest) if known.contains(rest) => {}
            Some(rest) if rest == COUNTER || rest.ends_with(&format!(".{COUNTER}")) => {}
            _ if HEADS.iter().any(|head| name.starts_with(head)) => left_out.push(name.clone()),
            _ => difference.extra.push(name.clone()),
        }
    }
    (Layout { architecture, dim, prefix, form, tensors: expected, left_out }, difference)
}

/// Length of the embedding: what most of the tensors say whose shape depends on it, so that one wrong shape is told as
/// such.
fn dim(
    default: usize,
    table: impl Fn(usize) -> Vec<(String, Vec<usize>)>,
    shape: impl Fn(&str) -> Option<Vec<usize>>,
) -> usize {
    let mut votes: Vec<usize> = Vec::new();
    for ((name, one), (_, other)) in table(default).into_iter().zip(table(default + 1)) {
        let differs = one.iter().zip(&other).position(|(one, other)| one != other);
        let found = differs.and_then(|axis| shape(&name)?.get(axis).copied());
        votes.extend(found.filter(|dim| (1..=4096).contains(dim)));
    }
    let count = |dim: usize| votes.iter().filter(|vote| **vote == dim).count();
    votes.iter().copied().chain([default]).max_by_key(|dim| (count(*dim), *dim == default)).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::super::tensor::{Dtype, View};
    use super::*;

    fn tensors(architecture: Architecture, dim: usize, prefix: &str) -> Tensors {
        let view = |shape: &[usize]| {
            let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
            View::whole("0", Dtype::F32, &shape)
        };
        architecture.tensors(dim).into_iter().map(|(name, shape)| (format!("{prefix}{name}"), view(&shape))).collect()
    }

    fn scalar() -> Result<View, String> {
        View::whole("0", Dtype::I64, &[])
    }

    #[test]
    fn every_network_is_recognised_under_every_prefix() {
        for architecture in Architecture::ALL {
            for prefix in PREFIXES {
                let found = recognise(&tensors(architecture, architecture.default_dim(), prefix), None).unwrap();
                assert_eq!((found.architecture, found.prefix), (architecture, *prefix));
                assert_eq!(found.dim, architecture.default_dim());
            }
        }
        let small = recognise(&tensors(Architecture::Ir18, 256, "model."), None).unwrap();
        assert_eq!((small.architecture, small.dim), (Architecture::Ir18, 256));
    }

    #[test]
    fn a_loss_head_and_counters_are_left_out_and_nothing_else() {
        let mut file = tensors(Architecture::Ir18, 512, "model.");
        file.insert("head.kernel".into(), scalar());
        file.insert("model.input_layer.1.num_batches_tracked".into(), scalar());
        assert_eq!(recognise(&file, None).unwrap().left_out, ["head.kernel"]);
        file.insert("model.surprise".into(), scalar());
        file.insert("other".into(), scalar());
        let error = recognise(&file, Some(Architecture::Ir18)).unwrap_err().to_string();
        assert_eq!(error, "the file does not fit ir_18: unknown to the network: model.surprise, other");
    }

    #[test]
    fn every_difference_is_named() {
        let mut file = tensors(Architecture::Ir50, 512, "net.");
        file.remove("net.body.3.res_layer.1.weight");
        file.insert("net.output_layer.3.weight".into(), View::whole("0", Dtype::F32, &[256, 25_088]));
        let error = recognise(&file, None).unwrap_err().to_string();
        assert_eq!(
            error,
            "the file does not fit ir_50: missing: net.body.3.res_layer.1.weight; wrongly shaped: \
             net.output_layer.3.weight ([256, 25088] instead of [512, 25088])"
        );
        let other = recognise(&tensors(Architecture::Ir18, 512, ""), Some(Architecture::Ir50)).unwrap_err().to_string();
        assert!(other.contains("body.23.res_layer") || other.contains("more"), "{other}");
        let strange = Tensors::from([("x".to_owned(), scalar())]);
        assert!(matches!(recognise(&strange, None), Err(ImportError::UnknownNetwork { .. })));
    }
}
