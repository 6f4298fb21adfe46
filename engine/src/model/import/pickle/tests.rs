//! Pickles by hand: what is read, what is refused, and that hostile ones cost nothing.

use super::*;

fn error(bytes: &[u8]) -> PickleError {
    read(bytes).unwrap_err()
}

#[test]
fn a_dictionary_subclass_of_an_unknown_class_is_read_as_one() {
    // What Python makes of lightning's AttributeDict(lr=0.1), under protocol 2.
    let bytes = b"\x80\x02clightning.data\nAttributeDict\nq\x00)\x81q\x01X\x02\x00\x00\x00lrq\x02G?\xb9\x99\x99\x99\x99\x99\x9as}q\x03h\x02K\x01sb.";
    let (values, length) = read(bytes).unwrap();
    assert_eq!(length, bytes.len());
    assert_eq!(
        values.call(values.root()).map(|(module, name, _)| (module, name)),
        Some(("lightning.data", "AttributeDict"))
    );
    let item = values.item(values.root(), "lr").unwrap();
    assert_eq!(values.get(item), &Value::Other);
}

#[test]
fn numbers_of_every_form_are_read() {
    let bytes = b"(I-7\nL12L\nK\xffM\x00\x01J\xfe\xff\xff\xff\x8a\x01\x80\x8a\x00\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01I01\nF1.5\nt.";
    let (values, _) = read(bytes).unwrap();
    let members: Vec<_> = values.members(values.root()).unwrap().iter().map(|at| values.get(*at).clone()).collect();
    let ints = [-7, 12, 255, 256, -2, -128, 0].map(Value::Int);
    assert_eq!(members[..7], ints);
    assert_eq!(members[7..], [Value::Other, Value::Bool(true), Value::Other]);
}

#[test]
fn hostile_pickles_are_named() {
    let forbidden = |module: &str, name: &str| PickleError::Forbidden { module: module.into(), name: name.into() };
    assert_eq!(error(b"cos\nsystem\n(S'echo'\ntR."), forbidden("os", "system"));
    assert_eq!(error(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R."), forbidden("posix", "system"));
    assert_eq!(error(b"(S'id'\nios\nsystem\n."), forbidden("os", "system"));
    assert_eq!(error(b"(cbuiltins\neval\nS'1'\no."), forbidden("builtins", "eval"));
    assert_eq!(error(b"ccollections\nOrderedDict\n)R)R."), PickleError::Call(28));
    assert!(error(b"cos\nsystem\n.").to_string().contains("hostile"));
}

#[test]
fn what_is_cut_short_or_inconsistent_is_told() {
    assert_eq!(error(b""), PickleError::Truncated(0));
    assert_eq!(error(b"X\xff\xff\xff\xffabc"), PickleError::Truncated(8));
    assert_eq!(error(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc"), PickleError::Truncated(12));
    assert_eq!(error(b"."), PickleError::Inconsistent(0));
    assert_eq!(error(b"(N(0a."), PickleError::Inconsistent(4));
    assert_eq!(error(b"t."), PickleError::Inconsistent(0));
    assert_eq!(error(b"h\x05."), PickleError::Memo { index: 5, at: 0 });
    assert_eq!(error(b"\x80\x06N."), PickleError::Protocol(6));
    assert_eq!(error(b"\x97."), PickleError::Instruction { opcode: 0x97, at: 0 });
    assert_eq!(error(b"Ix\n."), PickleError::Operand(0));
    assert_eq!(error(b"X\x01\x00\x00\x00\xff."), PickleError::Operand(0));
    assert_eq!(error(b"NNs."), PickleError::Inconsistent(2));
}

#[test]
fn deep_circular_and_endless_pickles_cost_nothing() {
    let deep = [vec![b']'; 100_000], vec![b'a'; 99_999], vec![b'.']].concat();
    assert!(read(&deep).is_ok());
    let circular = b"]q\x00h\x00a.";
    let (values, _) = read(circular).unwrap();
    assert_eq!(values.members(values.root()), Some(&[values.root()][..]));
    for endless in [b'N', b'(', b']'] {
        assert_eq!(error(&vec![endless; MAX_VALUES + 10]), PickleError::TooLarge("values"));
    }
    let copies = [vec![b'N'], vec![b'2'; MAX_VALUES + 10]].concat();
    assert_eq!(error(&copies), PickleError::TooLarge("values"));
    let long = [b"X\x00\x00\x10\x00".to_vec(), vec![b'a'; 1 << 20], b"22\x93.".to_vec()].concat();
    assert!(matches!(error(&long), PickleError::Inconsistent(_)));
}

/// Every prefix and many changes of a real pickle end in an answer.
#[test]
fn no_change_of_a_pickle_is_too_much() {
    let bytes = b"\x80\x02}q\x00(X\x0a\x00\x00\x00state_dictq\x01ccollections\nOrderedDict\nq\x02)Rq\x03(X\x01\x00\x00\x00aq\x04ctorch._utils\n_rebuild_tensor_v2\nq\x05((X\x07\x00\x00\x00storageq\x06ctorch\nFloatStorage\nq\x07X\x01\x00\x00\x000q\x08X\x03\x00\x00\x00cpuq\x09K\x0ctq\x0aQK\x00K\x03K\x04\x86q\x0bK\x04K\x01\x86q\x0c\x89h\x02)Rq\x0dtq\x0eRq\x0fuu.";
    assert!(read(bytes).is_ok());
    for length in 0..bytes.len() {
        assert!(read(&bytes[..length]).is_err());
    }
    let mut changed = bytes.to_vec();
    for at in 0..bytes.len() {
        for value in 0..=255 {
            changed[at] = value;
            let _ = read(&changed);
        }
        changed[at] = bytes[at];
    }
}
