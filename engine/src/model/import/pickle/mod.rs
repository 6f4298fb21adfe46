//! A pickle reader that executes nothing.
//!
//! A pickle is a program for a small stack machine, some of whose instructions call functions. This machine knows the
//! instructions of protocols 0 to 5 and builds [`Values`]: a call becomes a record of what would have been called.
//! Pickles that name what no checkpoint needs are refused altogether ([`policy`]).
//!
//! Each instruction makes at most two values and takes at least one byte, no long text is copied twice, and nothing is
//! allocated by a length that the pickle claims. So memory and time are bounded by the length of the input, and that
//! by [`MAX_BYTES`]; numbers of values, which take more room than their bytes, by [`MAX_VALUES`].

mod policy;
mod value;

use std::collections::HashMap;

pub(crate) use value::{Ref, Value, Values};

/// Most bytes of a pickle. Those of the largest networks, with the state of an optimiser, have less than one megabyte.
pub(crate) const MAX_BYTES: usize = 32 << 20;
/// Most values of a pickle, on its stack and remembered.
const MAX_VALUES: usize = 2 << 20;
/// Longest text line of protocol 0.
const MAX_LINE: usize = 64 << 10;
/// Longest name of a module, class or function.
const MAX_NAME: usize = 1 << 10;

/// Why a pickle is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// It ends in the middle.
    #[error("it is cut short at byte {0}")]
    Truncated(usize),
    /// An instruction that does not exist, or that checkpoints do not need.
    #[error("instruction {opcode:#04x} at byte {at} is not one of a checkpoint")]
    Instruction {
        /// Its code.
        opcode: u8,
        /// Where.
        at: usize,
    },
    /// An instruction that does not fit what came before it.
    #[error("the instruction at byte {0} does not fit what is before it")]
    Inconsistent(usize),
    /// An operand that is no text or number of the right form.
    #[error("the operand at byte {0} cannot be read")]
    Operand(usize),
    /// It refers to a value that was not remembered.
    #[error("byte {at} refers to value {index}, which is not there")]
    Memo {
        /// The number it was asked for by.
        index: u64,
        /// Where.
        at: usize,
    },
    /// A protocol newer than 5.
    #[error("protocol {0} is newer than 5")]
    Protocol(u8),
    /// Too large for a checkpoint.
    #[error("it is larger than a checkpoint needs ({0})")]
    TooLarge(&'static str),
    /// It names something that runs code or reaches beyond the data.
    #[error("it asks to run {module}.{name}, which no checkpoint needs; it is hostile and nothing of it was run")]
    Forbidden {
        /// Module.
        module: String,
        /// Name in it.
        name: String,
    },
    /// It would call what another call returned.
    #[error("byte {0} calls something that is not a named class or function, which no checkpoint needs")]
    Call(usize),
}

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

    fn step(&mut self, opcode: u8, start: usize) -> Result<(), PickleError> {
        match opcode {
            // Framing and the stack.
            0x80 => match self.byte()? {
                0..=5 => Ok(()),
                protocol => Err(PickleError::Protocol(protocol)),
            },
            0x95 => self.number(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' if self.marks.last() == Some(&self.stack.len()) => {
                self.marks.pop();
                Ok(())
            }
            b'0' => self.pop(start).map(drop),
            b'1' => self.group(start).map(drop),
            b'2' => {
                let top = self.top(start)?;
                self.stack.push(top);
                Ok(())
            }
            // Single values.
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'I' | b'L' => self.decimal(start),
            b'J' => {
                let bits = self.number(4)? as u32;
                self.push(Value::Int(i64::from(bits as i32)))
            }
            b'K' => {
                let value = self.number(1)? as i64;
                self.push(Value::Int(value))
            }
            b'M' => {
                let value = self.number(2)? as i64;
                self.push(Value::Int(value))
            }
            0x8a => {
                let bytes = self.counted(1)?;
                self.long(bytes)
            }
            0x8b => {
                let bytes = self.counted(4)?;
                self.long(bytes)
            }
            b'F' => {
                self.line()?;
                self.push(Value::Other)
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Other)
            }
            // Texts. Those of Python 2 are read as UTF-8 and are bytes otherwise.
            b'X' => {
                let bytes = self.counted(4)?;
                self.text(bytes, start)
            }
            0x8c => {
                let bytes = self.counted(1)?;
                self.text(bytes, start)
            }
            0x8d => {
                let bytes = self.counted(8)?;
                self.text(bytes, start)
            }
            b'V' => {
                let line = self.line()?;
                self.push(Value::Text(line.into()))
            }
            b'S' => {
                let line = self.line()?;
                let quoted =
                    line.len() >= 2 && matches!(line.as_bytes()[0], b'\'' | b'"') && line.ends_with(&line[..1]);
                if !quoted {
                    return Err(PickleError::Operand(start));
                }
                self.push(Value::Text(line[1..line.len() - 1].into()))
            }
            b'T' | b'U' => {
                let bytes = self.counted(if opcode == b'T' { 4 } else { 1 })?;
                self.push(std::str::from_utf8(bytes).map_or(Value::Other, |text| Value::Text(text.into())))
            }
            b'B' | b'C' | 0x8e | 0x96 => {
                self.counted(match opcode {
                    b'B' => 4,
                    b'C' => 1,
                    _ => 8,
                })?;
                self.push(Value::Other)
            }
            _ => self.step_compound(opcode, start),
        }
    }

    fn step_compound(&mut self, opcode: u8, start: usize) -> Result<(), PickleError> {
        match opcode {
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85 => self.tuple(1, start),
            0x86 => self.tuple(2, start),
            0x87 => self.tuple(3, start),
            b't' => {
                let members = self.group(start)?;
                self.push(Value::Tuple(members))
            }
            b']' | 0x8f => self.push(Value::List(Vec::new())),
            b'l' | 0x91 => {
                let members = self.group(start)?;
                self.push(Value::List(members))
            }
            b'a' => {
                let member = self.pop(start)?;
                self.append(&[member], start)
            }
            b'e' | 0x90 => {
                let members = self.group(start)?;
                self.append(&members, start)
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' => {
                let flat = self.group(start)?;
                self.push(Value::Dict(Vec::new()))?;
                self.set(&flat, start)
            }
            b's' => {
                let value = self.pop(start)?;
                let key = self.pop(start)?;
                self.set(&[key, value], start)
            }
            b'u' => {
                let flat = self.group(start)?;
                self.set(&flat, start)
            }
            // Remembered values.
            b'p' | b'g' => {
                let index = self.line()?.parse().map_err(|_| PickleError::Operand(start))?;
                if opcode == b'p' { self.remember(index, start) } else { self.recall(index, start) }
            }
            b'q' | b'r' => {
                let index = self.number(if opcode == b'q' { 1 } else { 4 })?;
                self.remember(index, start)
            }
            b'h' | b'j' => {
                let index = self.number(if opcode == b'h' { 1 } else { 4 })?;
                self.recall(index, start)
            }
            0x94 => self.remember(self.memo.len() as u64, start),
            // Classes, and what would be made of them.
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(module, name)
            }
            0x93 => {
                let name = self.pop(start)?;
                let module = self.pop(start)?;
                let text = |at: Ref| match self.values.get(at as usize) {
                    Some(Value::Text(text)) if text.len() <= MAX_NAME => Ok(text.to_string()),
                    _ => Err(PickleError::Inconsistent(start)),
                };
                let (module, name) = (text(module)?, text(name)?);
                self.global(&module, &name)
            }
            b'R' | 0x81 => {
                let arguments = self.pop(start)?;
                let class = self.pop(start)?;
                self.object(class, arguments, start)
            }
            0x92 => {
                self.pop(start)?;
                let arguments = self.pop(start)?;
                let class = self.pop(start)?;
                self.object(class, arguments, start)
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let members = self.group(start)?;
                let arguments = self.add(Value::Tuple(members))?;
                self.global(module, name)?;
                let class = self.pop(start)?;
                self.object(class, arguments, start)
            }
            b'o' => {
                let mut members = self.group(start)?.into_iter();
                let class = members.next().ok_or(PickleError::Inconsistent(start))?;
                let arguments = self.add(Value::Tuple(members.collect()))?;
                self.object(class, arguments, start)
            }
            // The state of an object is nothing that the reader of a checkpoint looks at.
            b'b' => {
                self.pop(start)?;
                self.top(start).map(drop)
            }
            b'P' => {
                let line = self.line()?;
                let described = self.add(Value::Text(line.into()))?;
                self.push(Value::Outside(described))
            }
            b'Q' => {
                let described = self.pop(start)?;
                self.push(Value::Outside(described))
            }
            _ => Err(PickleError::Instruction { opcode, at: start }),
        }
    }
}

#[cfg(test)]
mod tests;
