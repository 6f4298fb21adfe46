//! What each instruction does.

use super::{MAX_NAME, Machine, PickleError, Ref, Value};

impl Machine<'_> {
    /// Carries out an instruction that begins at byte `start`.
    pub(super) fn step(&mut self, opcode: u8, start: usize) -> Result<(), PickleError> {
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
