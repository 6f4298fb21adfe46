//! Why a pickle is not read.

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
