//! Writes checkpoints as PyTorch does: a pickle of protocol 2 and a stored zip member for each tensor.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A tensor by name, shape and values.
pub(super) type Tensor = (String, Vec<usize>, Vec<f32>);

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn int(out: &mut Vec<u8>, value: usize) {
    out.push(b'J');
    out.extend_from_slice(&(value as u32).to_le_bytes());
}

fn tuple(out: &mut Vec<u8>, values: &[usize]) {
    out.push(b'(');
    values.iter().for_each(|value| int(out, *value));
    out.push(b't');
}

/// The pickle of `{"state_dict": {…}, "hyper_parameters": AttributeDict()}`, with `extra` as the value of one more key.
pub(super) fn pickle(tensors: &[Tensor], extra: &[u8]) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    text(&mut out, "state_dict");
    out.extend_from_slice(b"ccollections\nOrderedDict\n)R(");
    for (key, (name, shape, values)) in tensors.iter().enumerate() {
        text(&mut out, name);
        out.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend_from_slice(b"ctorch\nFloatStorage\n");
        text(&mut out, &key.to_string());
        text(&mut out, "cpu");
        int(&mut out, values.len());
        out.extend_from_slice(b"tQ");
        int(&mut out, 0);
        tuple(&mut out, shape);
        let strides: Vec<usize> = (1..=shape.len()).map(|axis| shape[axis..].iter().product()).collect();
        tuple(&mut out, &strides);
        out.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.push(b'u');
    text(&mut out, "hyper_parameters");
    out.extend_from_slice(b"clightning.data\nAttributeDict\n)\x81");
    text(&mut out, "extra");
    out.extend_from_slice(extra);
    out.extend_from_slice(b"u.");
    out
}

/// The bytes of a file with this pickle and the tensors' values.
pub(super) fn file(pickle: &[u8], tensors: &[Tensor]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut member = |name: String, bytes: &[u8]| {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    };
    member("archive/data.pkl".into(), pickle);
    member("archive/byteorder".into(), b"little");
    for (key, (_, _, values)) in tensors.iter().enumerate() {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        member(format!("archive/data/{key}"), &bytes);
    }
    member("archive/version".into(), b"3\n");
    zip.finish().unwrap().into_inner()
}

/// A Lightning checkpoint of these tensors.
pub(super) fn checkpoint(tensors: &[Tensor]) -> Vec<u8> {
    file(&pickle(tensors, b"N"), tensors)
}

/// A safetensors file of these tensors.
pub(super) fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name.clone(), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}
