//! What a pickle describes, as plain data.
//!
//! Values lie side by side in one list and refer to each other by position, so shared and circular structures cost
//! nothing, and neither walking nor dropping them recurses, however deep a file nests them.

/// Position of a value.
pub(crate) type Ref = u32;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A float, a longer integer or bytes: nothing that the reader of a checkpoint looks at.
    Other,
    /// A text.
    Text(Box<str>),
    /// A tuple.
    Tuple(Vec<Ref>),
    /// A list or a set.
    List(Vec<Ref>),
    /// A dictionary, in the order of insertion.
    Dict(Vec<(Ref, Ref)>),
    /// A class or function by module and name. It is never looked up.
    Global(Box<str>, Box<str>),
    /// What a class or function would make of arguments; it is never called. Items are those set on it afterwards, as
    /// on a subclass of a dictionary.
    Object {
        /// The class or function, a [`Value::Global`].
        class: Ref,
        /// Its arguments, mostly a [`Value::Tuple`].
        arguments: Ref,
        /// Key and value.
        items: Vec<(Ref, Ref)>,
    },
    /// Something kept outside of the pickle, such as the bytes of a tensor, by its description.
    Outside(Ref),
}

/// All values of a pickle.
#[derive(Debug, Default)]
pub(crate) struct Values {
    pub(super) list: Vec<Value>,
    pub(super) root: Ref,
}

impl Values {
    /// What the pickle as a whole describes.
    pub(crate) fn root(&self) -> Ref {
        self.root
    }

    /// The value at a position. One that does not exist, which no pickle can name, reads as `None`.
    pub(crate) fn get(&self, at: Ref) -> &Value {
        self.list.get(at as usize).unwrap_or(&Value::None)
    }

    /// Every value, in the order of the pickle.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Value> {
        self.list.iter()
    }

    /// Keys and values of a dictionary or of an object that was used as one.
    pub(crate) fn items(&self, at: Ref) -> Option<&[(Ref, Ref)]> {
        match self.get(at) {
            Value::Dict(items) | Value::Object { items, .. } => Some(items),
            _ => None,
        }
    }

    /// The value of a text key of a dictionary, the last one set.
    pub(crate) fn item(&self, at: Ref, key: &str) -> Option<Ref> {
        self.items(at)?.iter().rev().find(|(k, _)| self.text(*k) == Some(key)).map(|(_, value)| *value)
    }

    /// A text.
    pub(crate) fn text(&self, at: Ref) -> Option<&str> {
        match self.get(at) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An integer.
    pub(crate) fn int(&self, at: Ref) -> Option<i64> {
        match self.get(at) {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// Members of a tuple or list.
    pub(crate) fn members(&self, at: Ref) -> Option<&[Ref]> {
        match self.get(at) {
            Value::Tuple(members) | Value::List(members) => Some(members),
            _ => None,
        }
    }

    /// Module and name of a class or function.
    pub(crate) fn global(&self, at: Ref) -> Option<(&str, &str)> {
        match self.get(at) {
            Value::Global(module, name) => Some((module, name)),
            _ => None,
        }
    }

    /// Module and name of what made an object, and its arguments.
    pub(crate) fn call(&self, at: Ref) -> Option<(&str, &str, Ref)> {
        match self.get(at) {
            Value::Object { class, arguments, .. } => {
                let (module, name) = self.global(*class)?;
                Some((module, name, *arguments))
            }
            _ => None,
        }
    }
}
