//! A pickle reader that executes nothing.
//!
//! A pickle is a program for a small stack machine, some of whose instructions call functions. This machine knows the
//! instructions of protocols 0 to 5 and builds [`Values`]: a call becomes a record of what would have been called.
//! Pickles that name what no checkpoint needs are refused altogether ([`policy`]).
//!
//! Each instruction makes at most two values and takes at least one byte, no long text is copied twice, and nothing is
//! allocated by a length that the pickle claims. So memory and time are bounded by the length of the input, and that
//! by [`MAX_BYTES`]; numbers of values, which take more room than their bytes, by [`MAX_VALUES`].

mod error;
mod policy;
mod step;
mod value;

use std::collections::HashMap;

pub use error::PickleError;
pub(crate) use value::{Ref, Value, Values};

/// Most bytes of a pickle. Those of the largest networks, with the state of an optimiser, have less than one megabyte.
pub(crate) const MAX_BYTES: usize = 32 << 20;
/// Most values of a pickle, on its stack and remembered.
const MAX_VALUES: usize = 2 << 20;
/// Longest text line of protocol 0.
const MAX_LINE: usize = 64 << 10;
/// Longest name of a module, class or function.
const MAX_NAME: usize = 1 << 10;

/// Reads one pickle from the start of `bytes`. Gives its values and its length.
pub(crate) fn read(bytes: &[u8]) -> Result<(Values, usize), PickleError> {
    if bytes.len() > MAX_BYTES {
        return Err(PickleError::TooLarge("bytes"));
    }
    let mut machine =
        Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), values: vec![] };
    loop {
        let start = machine.at;
        let opcode = machine.byte()?;
        if opcode == b'.' {
            let root = machine.pop(start)?;
            return Ok((Values { list: machine.values, root }, machine.at));
        }
        machine.step(opcode, start)?;
        if machine.stack.len().max(machine.marks.len()).max(machine.memo.len()) > MAX_VALUES {
            return Err(PickleError::TooLarge("values"));
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Ref>,
    /// Heights of the stack at which groups of values begin.
    marks: Vec<usize>,
    memo: HashMap<u64, Ref>,
    values: Vec<Value>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], PickleError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(PickleError::Truncated(self.bytes.len()))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number of at most eight bytes.
    fn number(&mut self, bytes: usize) -> Result<u64, PickleError> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn counted(&mut self, length_bytes: usize) -> Result<&'a [u8], PickleError> {
        let length = self.number(length_bytes)?;
        self.take(usize::try_from(length).map_err(|_| PickleError::Truncated(self.bytes.len()))?)
    }

    fn line(&mut self) -> Result<&'a str, PickleError> {
        let start = self.at;
        let rest = &self.bytes[start..self.bytes.len().min(start + MAX_LINE)];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            let cut = rest.len() < MAX_LINE;
            return Err(if cut { PickleError::Truncated(self.bytes.len()) } else { PickleError::Operand(start) });
        };
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| PickleError::Operand(start))
    }

    fn text(&mut self, bytes: &[u8], start: usize) -> Result<(), PickleError> {
        let text = std::str::from_utf8(bytes).map_err(|_| PickleError::Operand(start))?;
        self.push(Value::Text(text.into()))
    }

    fn add(&mut self, value: Value) -> Result<Ref, PickleError> {
        if self.values.len() >= MAX_VALUES {
            return Err(PickleError::TooLarge("values"));
        }
        self.values.push(value);
        Ok((self.values.len() - 1) as Ref)
    }

    fn push(&mut self, value: Value) -> Result<(), PickleError> {
        let at = self.add(value)?;
        self.stack.push(at);
        Ok(())
    }

    /// The lowest place of the stack that instructions may take from: what lies below a mark is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self, start: usize) -> Result<Ref, PickleError> {
        if self.stack.len() <= self.floor() {
            return Err(PickleError::Inconsistent(start));
        }
        self.stack.pop().ok_or(PickleError::Inconsistent(start))
    }

    fn top(&self, start: usize) -> Result<Ref, PickleError> {
        let top = if self.stack.len() > self.floor() { self.stack.last() } else { None };
        top.copied().ok_or(PickleError::Inconsistent(start))
    }

    /// Everything above the last mark.
    fn group(&mut self, start: usize) -> Result<Vec<Ref>, PickleError> {
        let mark = self.marks.pop().ok_or(PickleError::Inconsistent(start))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn tuple(&mut self, count: usize, start: usize) -> Result<(), PickleError> {
        let from = self.stack.len().checked_sub(count).filter(|from| *from >= self.floor());
        let members = self.stack.split_off(from.ok_or(PickleError::Inconsistent(start))?);
        self.push(Value::Tuple(members))
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), PickleError> {
        if module.len().max(name.len()) > MAX_NAME {
            return Err(PickleError::TooLarge("names"));
        }
        if policy::is_forbidden(module, name) {
            return Err(PickleError::Forbidden { module: module.to_owned(), name: name.to_owned() });
        }
        self.push(Value::Global(module.into(), name.into()))
    }

    /// A record of what calling `class` would make.
    fn object(&mut self, class: Ref, arguments: Ref, start: usize) -> Result<(), PickleError> {
        match self.values.get(class as usize) {
            Some(Value::Global(..)) => self.push(Value::Object { class, arguments, items: Vec::new() }),
            _ => Err(PickleError::Call(start)),
        }
    }

    fn remember(&mut self, index: u64, start: usize) -> Result<(), PickleError> {
        let top = self.top(start)?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u64, start: usize) -> Result<(), PickleError> {
        let value = self.memo.get(&index).copied().ok_or(PickleError::Memo { index, at: start })?;
        self.stack.push(value);
        Ok(())
    }

    fn append(&mut self, members: &[Ref], start: usize) -> Result<(), PickleError> {
        let target = self.top(start)?;
        match self.values.get_mut(target as usize) {
            Some(Value::List(list)) => list.extend_from_slice(members),
            // A subclass of a list: nothing that the reader of a checkpoint looks at.
            Some(Value::Object { .. } | Value::Other) => {}
            _ => return Err(PickleError::Inconsistent(start)),
        }
        Ok(())
    }

    fn set(&mut self, flat: &[Ref], start: usize) -> Result<(), PickleError> {
        let target = self.top(start)?;
        match self.values.get_mut(target as usize) {
            Some(Value::Dict(items) | Value::Object { items, .. }) if flat.len().is_multiple_of(2) => {
                items.extend(flat.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => return Err(PickleError::Inconsistent(start)),
        }
        Ok(())
    }

    fn decimal(&mut self, start: usize) -> Result<(), PickleError> {
        let line = self.line()?;
        match line {
            "00" => self.push(Value::Bool(false)),
            "01" => self.push(Value::Bool(true)),
            _ => {
                let digits = line.strip_suffix('L').unwrap_or(line);
                let shape = digits.strip_prefix('-').unwrap_or(digits);
                if shape.is_empty() || !shape.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(PickleError::Operand(start));
                }
                self.push(digits.parse().map_or(Value::Other, Value::Int))
            }
        }
    }

    /// A two's complement number of any length.
    fn long(&mut self, bytes: &[u8]) -> Result<(), PickleError> {
        let value = match bytes {
            [] => Value::Int(0),
            [.., last] if bytes.len() <= 8 => {
                let fill = if last & 0x80 != 0 { 0xff } else { 0 };
                let mut wide = [fill; 8];
                wide[..bytes.len()].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(wide))
            }
            _ => Value::Other,
        };
        self.push(value)
    }
}

#[cfg(test)]
mod tests;
