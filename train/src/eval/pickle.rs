//! Plain data out of Python pickles: lists, tuples, numbers, texts and bytes. Nothing is executed.
//!
//! A pickle is a program for a small stack machine. This one knows what protocols 0 to 5 use for plain data and for arrays
//! of NumPy, whose making is recorded as a call and never carried out. Bytes stay where they are in the file and are
//! referred to, so nothing is allocated by a length that the file claims, and the number of values is bounded. Bytes that Python 3
//! wrote in protocol 0 are refused: there they are a text that a codec has to be called with.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

/// Most values of a pickle. The largest verification set has 14,000 images and 7,000 labels.
const MAX_VALUES: usize = 4 << 20;
/// Longest line of protocol 0 that is no string.
const MAX_LINE: usize = 4 << 10;

/// Why a pickle is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PickleError {
    #[error("the pickle is cut short at byte {0}")]
    Truncated(usize),
    #[error("instruction {opcode:#04x} at byte {at} is not one of plain data")]
    Instruction { opcode: u8, at: usize },
    #[error("the instruction at byte {0} does not fit what is before it")]
    Inconsistent(usize),
    #[error("the pickle has too many values")]
    TooMany,
}

pub(super) type Ref = usize;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// Bytes, or a string of Python 2, at this place of the file.
    Bytes(Range<usize>),
    /// A string of Python 2 in protocol 0, between its quotes.
    Quoted(Range<usize>),
    /// A text in UTF-8.
    Text(Range<usize>),
    List(Vec<Ref>),
    Tuple(Vec<Ref>),
    /// A class or function as "module name".
    Global(String),
    /// What a function would make of arguments, and the state set on it.
    Call {
        function: Ref,
        arguments: Ref,
        state: Option<Ref>,
    },
    /// Anything else.
    Other,
}

/// The values of a pickle, with the file they lie in.
#[derive(Debug)]
pub(super) struct Pickle {
    file: Vec<u8>,
    values: Vec<Value>,
    root: Ref,
}

impl Pickle {
    /// Reads one pickle from the start of a file.
    pub(super) fn parse(file: Vec<u8>) -> Result<Self, PickleError> {
        let mut machine =
            Machine { file: &file, at: 0, stack: vec![], marks: vec![], memo: HashMap::new(), values: vec![] };
        let root = machine.run()?;
        let values = machine.values;
        Ok(Self { file, values, root })
    }

    pub(super) fn root(&self) -> Ref {
        self.root
    }

    pub(super) fn value(&self, at: Ref) -> &Value {
        self.values.get(at).unwrap_or(&Value::None)
    }

    /// Members of a list or tuple.
    pub(super) fn members(&self, at: Ref) -> Option<&[Ref]> {
        match self.value(at) {
            Value::List(members) | Value::Tuple(members) => Some(members),
            _ => None,
        }
    }

    fn range(&self, range: &Range<usize>) -> &[u8] {
        self.file.get(range.clone()).unwrap_or_default()
    }

    /// Bytes, however Python wrote them: as such, as a string of Python 2, as Latin 1 to be encoded, or as a NumPy array.
    pub(super) fn bytes(&self, at: Ref) -> Option<Cow<'_, [u8]>> {
        match self.value(at) {
            Value::Bytes(range) => Some(self.range(range).into()),
            Value::Quoted(range) => Some(unquote(self.range(range))?.into()),
            Value::Call { function, arguments, state } => match self.value(*function) {
                Value::Global(name) if name == "_codecs encode" => match (self.members(*arguments)?, state) {
                    (&[text, _], None) => match self.value(text) {
                        Value::Text(range) => {
                            let text = std::str::from_utf8(self.range(range)).ok()?;
                            Some(
                                text.chars()
                                    .map(|c| u8::try_from(u32::from(c)).ok())
                                    .collect::<Option<Vec<u8>>>()?
                                    .into(),
                            )
                        }
                        _ => None,
                    },
                    _ => None,
                },
                Value::Global(name) if name.ends_with("multiarray _reconstruct") => {
                    // Version, shape, type, order, data. Only items of one byte are bytes.
                    let &[_, _, kind, _, data] = self.members((*state)?)? else { return None };
                    if self.is_plain(data) && self.has_one_byte(kind) { self.bytes(data) } else { None }
                }
                Value::Global(name) if name.ends_with("numeric _frombuffer") => {
                    // Data, type, shape, order: how protocol 5 has an array.
                    let &[data, kind, _, _] = self.members(*arguments)? else { return None };
                    if self.is_plain(data) && self.has_one_byte(kind) { self.bytes(data) } else { None }
                }
                Value::Global(name) if name.ends_with("multiarray scalar") => {
                    let &[kind, data] = self.members(*arguments)? else { return None };
                    if self.is_plain(data) && self.has_one_byte(kind) { self.bytes(data) } else { None }
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Bytes that lead to no further array.
    fn is_plain(&self, at: Ref) -> bool {
        match self.value(at) {
            Value::Bytes(_) | Value::Quoted(_) => true,
            Value::Call { function, .. } => {
                matches!(self.value(*function), Value::Global(name) if name == "_codecs encode")
            }
            _ => false,
        }
    }

    /// Whether a NumPy type is one of a byte or a bool.
    fn has_one_byte(&self, at: Ref) -> bool {
        let Value::Call { arguments, .. } = self.value(at) else { return false };
        let name = self.members(*arguments).and_then(|arguments| arguments.first());
        name.is_some_and(|name| match self.value(*name) {
            Value::Text(range) | Value::Bytes(range) | Value::Quoted(range) => {
                matches!(self.range(range), b"u1" | b"|u1" | b"b1" | b"|b1" | b"uint8" | b"bool")
            }
            _ => false,
        })
    }

    /// A truth value: a bool, 0 or 1, or one of NumPy.
    pub(super) fn truth(&self, at: Ref) -> Option<bool> {
        match self.value(at) {
            Value::Bool(value) => Some(*value),
            Value::Int(value @ 0..=1) => Some(*value == 1),
            Value::Call { .. } => match self.bytes(at)?.as_ref() {
                [value @ 0..=1] => Some(*value == 1),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The bytes of a string as Python 2 prints it.
fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'x' => {
                    let mut digit = || char::from(rest.next()?).to_digit(16);
                    (digit()? << 4 | digit()?) as u8
                }
                quoted @ (b'\\' | b'\'' | b'"') => quoted,
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(bytes)
}

struct Machine<'a> {
    file: &'a [u8],
    at: usize,
    stack: Vec<Ref>,
    /// Heights of the stack at which groups begin.
    marks: Vec<usize>,
    memo: HashMap<u64, Ref>,
    values: Vec<Value>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Ref, PickleError> {
        loop {
            let start = self.at;
            let range = self.take(1)?;
            let opcode = self.file[range.start];
            if opcode == b'.' {
                return self.pop(start);
            }
            self.step(opcode, start)?;
            if self.stack.len().max(self.marks.len()).max(self.values.len()).max(self.memo.len()) > MAX_VALUES {
                return Err(PickleError::TooMany);
            }
        }
    }

    fn step(&mut self, opcode: u8, start: usize) -> Result<(), PickleError> {
        match opcode {
            0x80 => self.take(1).map(drop),
            0x95 => self.take(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop(start).map(drop),
            b'1' => self.group(start).map(drop),
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool(opcode == 0x88)),
            b'I' | b'L' => {
                let line = self.line()?;
                let value = match &self.file[line] {
                    b"00" => Value::Bool(false),
                    b"01" => Value::Bool(true),
                    digits => {
                        let digits = std::str::from_utf8(digits).unwrap_or_default();
                        digits.trim_end_matches('L').parse().map_or(Value::Other, Value::Int)
                    }
                };
                self.push(value)
            }
            b'K' | b'M' | b'J' => {
                let value = self.number(if opcode == b'K' {
                    1
                } else if opcode == b'M' {
                    2
                } else {
                    4
                })?;
                // Only the widest form is signed.
                self.push(Value::Int(if opcode == b'J' { i64::from(value as u32 as i32) } else { value as i64 }))
            }
            0x8a => {
                let range = self.counted(1)?;
                let bytes = &self.file[range];
                let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
                let fill = if negative { -1 } else { 0 };
                let value = bytes.iter().rev().fold(fill, |value: i64, byte| value << 8 | i64::from(*byte));
                let value = if bytes.len() <= 8 { Value::Int(value) } else { Value::Other };
                self.push(value)
            }
            b'F' => {
                self.line()?;
                self.push(Value::Other)
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Other)
            }
            b'C' | b'U' => self.counted(1).and_then(|range| self.push(Value::Bytes(range))),
            b'B' | b'T' => self.counted(4).and_then(|range| self.push(Value::Bytes(range))),
            0x8e | 0x96 => self.counted(8).and_then(|range| self.push(Value::Bytes(range))),
            0x8c => self.counted(1).and_then(|range| self.push(Value::Text(range))),
            b'X' => self.counted(4).and_then(|range| self.push(Value::Text(range))),
            0x8d => self.counted(8).and_then(|range| self.push(Value::Text(range))),
            b'S' => {
                let line = self.any_line()?;
                let text = &self.file[line.clone()];
                match (text.first(), text.last()) {
                    (Some(b'\'' | b'"'), last) if text.len() >= 2 && last == text.first() => {
                        self.push(Value::Quoted(line.start + 1..line.end - 1))
                    }
                    _ => Err(PickleError::Inconsistent(start)),
                }
            }
            b'V' => self.any_line().and_then(|range| self.push(Value::Text(range))),
            _ => self.step_compound(opcode, start),
        }
    }

    fn step_compound(&mut self, opcode: u8, start: usize) -> Result<(), PickleError> {
        match opcode {
            b']' => self.push(Value::List(Vec::new())),
            b')' => self.push(Value::Tuple(Vec::new())),
            b'l' | b't' => {
                let members = self.group(start)?;
                self.push(if opcode == b'l' { Value::List(members) } else { Value::Tuple(members) })
            }
            0x85..=0x87 => {
                let mut members = Vec::new();
                for _ in 0x85..=opcode {
                    members.push(self.pop(start)?);
                }
                members.reverse();
                self.push(Value::Tuple(members))
            }
            b'a' => {
                let member = self.pop(start)?;
                self.append(vec![member], start)
            }
            b'e' => {
                let members = self.group(start)?;
                self.append(members, start)
            }
            b'p' | b'g' => {
                let line = self.line()?;
                let number = std::str::from_utf8(&self.file[line]).ok().and_then(|text| text.parse().ok());
                let number = number.ok_or(PickleError::Inconsistent(start))?;
                if opcode == b'p' { self.remember(number, start) } else { self.recall(number, start) }
            }
            b'q' | b'r' => {
                let number = self.number(if opcode == b'q' { 1 } else { 4 })?;
                self.remember(number, start)
            }
            b'h' | b'j' => {
                let number = self.number(if opcode == b'h' { 1 } else { 4 })?;
                self.recall(number, start)
            }
            0x94 => self.remember(self.memo.len() as u64, start),
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let text = |range: Range<usize>| String::from_utf8_lossy(&self.file[range]).into_owned();
                let global = format!("{} {}", text(module), text(name));
                self.push(Value::Global(global))
            }
            0x93 => {
                let (name, module) = (self.pop(start)?, self.pop(start)?);
                let text = |at: Ref| match &self.values[at] {
                    Value::Text(range) if range.len() <= MAX_LINE => {
                        Ok(String::from_utf8_lossy(&self.file[range.clone()]).into_owned())
                    }
                    _ => Err(PickleError::Inconsistent(start)),
                };
                let global = format!("{} {}", text(module)?, text(name)?);
                self.push(Value::Global(global))
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop(start)?, self.pop(start)?);
                self.push(Value::Call { function, arguments, state: None })
            }
            b'b' => {
                let set = self.pop(start)?;
                let target = self.pop(start)?;
                if let Value::Call { state, .. } = &mut self.values[target] {
                    *state = Some(set);
                }
                self.stack.push(target);
                Ok(())
            }
            _ => Err(PickleError::Instruction { opcode, at: start }),
        }
    }

    fn take(&mut self, count: usize) -> Result<Range<usize>, PickleError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.file.len());
        let range = self.at..end.ok_or(PickleError::Truncated(self.file.len()))?;
        self.at = range.end;
        Ok(range)
    }

    /// A little-endian number of at most eight bytes.
    fn number(&mut self, bytes: usize) -> Result<u64, PickleError> {
        let range = self.take(bytes)?;
        Ok(self.file[range].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn counted(&mut self, length_bytes: usize) -> Result<Range<usize>, PickleError> {
        let length = self.number(length_bytes)?;
        self.take(usize::try_from(length).map_err(|_| PickleError::Truncated(self.file.len()))?)
    }

    fn any_line(&mut self) -> Result<Range<usize>, PickleError> {
        let length = self.file[self.at..].iter().position(|byte| *byte == b'\n');
        let range = self.take(length.ok_or(PickleError::Truncated(self.file.len()))?)?;
        self.take(1)?;
        Ok(range)
    }

    fn line(&mut self) -> Result<Range<usize>, PickleError> {
        let start = self.at;
        let line = self.any_line()?;
        if line.len() > MAX_LINE { Err(PickleError::Inconsistent(start)) } else { Ok(line) }
    }

    fn push(&mut self, value: Value) -> Result<(), PickleError> {
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    /// Takes the last value, which must not lie below a mark.
    fn pop(&mut self, start: usize) -> Result<Ref, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(PickleError::Inconsistent(start));
        }
        self.stack.pop().ok_or(PickleError::Inconsistent(start))
    }

    /// Everything above the last mark.
    fn group(&mut self, start: usize) -> Result<Vec<Ref>, PickleError> {
        let mark = self.marks.pop().ok_or(PickleError::Inconsistent(start))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn append(&mut self, members: Vec<Ref>, start: usize) -> Result<(), PickleError> {
        let target = self.pop(start)?;
        self.stack.push(target);
        match &mut self.values[target] {
            Value::List(list) => {
                list.extend(members);
                Ok(())
            }
            _ => Err(PickleError::Inconsistent(start)),
        }
    }

    fn remember(&mut self, number: u64, start: usize) -> Result<(), PickleError> {
        let top = self.pop(start)?;
        self.stack.push(top);
        self.memo.insert(number, top);
        Ok(())
    }

    fn recall(&mut self, number: u64, start: usize) -> Result<(), PickleError> {
        let value = self.memo.get(&number).copied().ok_or(PickleError::Inconsistent(start))?;
        self.stack.push(value);
        Ok(())
    }
}
