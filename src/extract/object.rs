//! JSON objects that must be objects.
//!
//! serde takes a JSON array for a struct as well, field by field. The API documents objects, and an empty array would
//! otherwise reset a gallery's settings, so requests are read through [`Object`].

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A value read from a JSON object and from nothing else.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyMap<T>(PhantomData<T>);

        impl<'de, T: DeserializeOwned> Visitor<'de> for OnlyMap<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(OnlyMap(PhantomData)).map(Object)
    }
}

/// For `#[serde(deserialize_with)]` on a member that is an object or null.
pub(crate) fn optional<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|object| object.0))
}

/// For `#[serde(deserialize_with)]` on a member that is a list of objects.
pub(crate) fn list<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Vec::<Object<T>>::deserialize(deserializer)?.into_iter().map(|object| object.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        a: u8,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Outer {
        #[serde(deserialize_with = "optional")]
        one: Option<Inner>,
        #[serde(deserialize_with = "list")]
        many: Vec<Inner>,
    }

    fn read(json: &str) -> Option<Outer> {
        serde_json::from_str::<Object<Outer>>(json).ok().map(|object| object.0)
    }

    #[test]
    fn only_objects_are_objects() {
        assert_eq!(read("{}"), Some(Outer::default()));
        assert_eq!(read(r#"{"one":null,"many":[]}"#), Some(Outer::default()));
        let whole = Outer { one: Some(Inner { a: 1 }), many: vec![Inner { a: 2 }, Inner { a: 0 }] };
        assert_eq!(read(r#"{"one":{"a":1},"many":[{"a":2},{}]}"#), Some(whole));
        for bad in ["[]", "null", "1", r#"{"one":[1]}"#, r#"{"many":[[2]]}"#, r#"{"many":{}}"#] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
