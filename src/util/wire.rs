//! Values in frames: what is in them is named once, and both directions are made of that.
//!
//! `wire!` takes the fields of a struct in their order, and for an enum the number of each
//! variant. A field may be written in another [`Form`] than its own: `text as Cut<1024>`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::frame::{Bad, Reader, Writer};
use super::{Line, Secret, cut};

/// What can be put into a frame, and taken out of it.
pub trait Wire: Sized {
    /// Adds its fields.
    fn write(&self, w: &mut Writer);
    /// Takes its fields.
    fn read(r: &mut Reader<'_>) -> Result<Self, Bad>;

    /// As bytes, without a frame.
    fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::default();
        self.write(&mut w);
        w.into_bytes()
    }

    /// From bytes, all of which it must take.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Bad> {
        let mut r = Reader::new(bytes);
        let value = Self::read(&mut r)?;
        r.end()?;
        Ok(value)
    }
}

/// A way to write values of another type: shorter, or checked when they are read.
pub trait Form<T> {
    /// Adds the value.
    fn write(value: &T, w: &mut Writer);
    /// Takes it.
    fn read(r: &mut Reader<'_>) -> Result<T, Bad>;
}

/// A value's own form.
pub struct Plain;

/// A text of which at most so many bytes are written.
pub struct Cut<const MOST_BYTES: usize>;

/// A list of values in another form. Of a list that does not fit the frame as much is written as
/// does.
pub struct Each<F>(PhantomData<F>);

/// A value in another form, if there is one.
pub struct Maybe<F>(PhantomData<F>);

impl<T: Wire> Form<T> for Plain {
    fn write(value: &T, w: &mut Writer) {
        value.write(w);
    }

    fn read(r: &mut Reader<'_>) -> Result<T, Bad> {
        T::read(r)
    }
}

impl<const MOST_BYTES: usize> Form<String> for Cut<MOST_BYTES> {
    fn write(value: &String, w: &mut Writer) {
        w.text(cut(value, MOST_BYTES));
    }

    fn read(r: &mut Reader<'_>) -> Result<String, Bad> {
        String::read(r)
    }
}

impl<const MOST_BYTES: usize> Form<Line> for Cut<MOST_BYTES> {
    fn write(value: &Line, w: &mut Writer) {
        w.text(cut(value, MOST_BYTES));
    }

    fn read(r: &mut Reader<'_>) -> Result<Line, Bad> {
        r.line()
    }
}

impl<T, F: Form<T>> Form<Vec<T>> for Each<F> {
    fn write(value: &Vec<T>, w: &mut Writer) {
        w.list(value, |w, item| F::write(item, w));
    }

    fn read(r: &mut Reader<'_>) -> Result<Vec<T>, Bad> {
        // Nothing is set aside for a count that may be a lie.
        (0..r.u32()?).map(|_| F::read(r)).collect()
    }
}

impl<T, F: Form<T>> Form<Option<T>> for Maybe<F> {
    fn write(value: &Option<T>, w: &mut Writer) {
        w.option(value.as_ref(), |w, value| F::write(value, w));
    }

    fn read(r: &mut Reader<'_>) -> Result<Option<T>, Bad> {
        r.option(F::read)
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn write(&self, w: &mut Writer) {
        Each::<Plain>::write(self, w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Bad> {
        Each::<Plain>::read(r)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn write(&self, w: &mut Writer) {
        Maybe::<Plain>::write(self, w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Bad> {
        Maybe::<Plain>::read(r)
    }
}

impl<T: Wire> Wire for Box<T> {
    fn write(&self, w: &mut Writer) {
        T::write(self, w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Bad> {
        T::read(r).map(Box::new)
    }
}

/// With rising keys, so that there is one form of each map.
impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn write(&self, w: &mut Writer) {
        w.u32(u32::try_from(self.len()).unwrap_or(u32::MAX));
        for (key, value) in self {
            key.write(w);
            value.write(w);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Bad> {
        let mut map = BTreeMap::new();
        for _ in 0..r.u32()? {
            let (key, value) = <(K, V)>::read(r)?;
            if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(Bad::Value);
            }
            map.insert(key, value);
        }
        Ok(map)
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn write(&self, w: &mut Writer) {
        self.0.write(w);
        self.1.write(w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Bad> {
        Ok((A::read(r)?, B::read(r)?))
    }
}

/// Types that the writer and the reader know: how to write `value`, how to read it.
macro_rules! fields {
    ($($type:ty: |$w:ident, $value:ident| $write:expr, |$r:ident| $read:expr;)*) => {$(
        impl Wire for $type {
            fn write(&self, $w: &mut Writer) {
                let $value = self;
                $write;
            }

            fn read($r: &mut Reader<'_>) -> Result<Self, Bad> {
                $read
            }
        }
    )*};
}

fields! {
    bool: |w, value| w.flag(*value), |r| r.flag();
    u16: |w, value| w.u32(u32::from(*value)), |r| u16::try_from(r.u32()?).map_err(|_| Bad::Value);
    u32: |w, value| w.u32(*value), |r| r.u32();
    u64: |w, value| w.u64(*value), |r| r.u64();
    i32: |w, value| w.i32(*value), |r| r.i32();
    i64: |w, value| w.u64(value.cast_unsigned()), |r| r.u64().map(u64::cast_signed);
    char: |w, value| w.u32(u32::from(*value)), |r| char::from_u32(r.u32()?).ok_or(Bad::Value);
    String: |w, value| w.text(value), |r| r.text().map(str::to_owned);
    Line: |w, value| w.line(value), |r| r.line();
    Secret: |w, value| w.text(value.reveal()), |r| r.line().map(Secret::new);
    Vec<u8>: |w, value| w.bytes(value), |r| r.bytes().map(<[u8]>::to_vec);
    PathBuf: |w, value| w.bytes(value.as_os_str().as_bytes()),
        |r| r.bytes().map(|bytes| Path::new(OsStr::from_bytes(bytes)).to_owned());
    IpAddr: |w, value| w.text(&value.to_string()), |r| {
        let text = r.text()?;
        let addr: Option<IpAddr> = text.parse().ok();
        // In the one form that it is printed in.
        addr.filter(|addr| addr.to_string() == text).ok_or(Bad::Value)
    };
}

/// Makes a struct or an enum a [`Wire`] value; see the module.
macro_rules! wire {
    (struct $name:ident { $($field:ident $(as $form:ty)?),* $(,)? }) => {
        impl $crate::util::wire::Wire for $name {
            fn write(&self, w: &mut $crate::util::frame::Writer) {
                let $name { $($field),* } = self;
                $($crate::util::wire::wire!(@write w, $field $(, $form)?);)*
            }

            fn read(
                r: &mut $crate::util::frame::Reader<'_>,
            ) -> Result<Self, $crate::util::frame::Bad> {
                Ok($name { $($field: $crate::util::wire::wire!(@read r $(, $form)?)),* })
            }
        }
    };
    (enum $name:ident { $(
        $number:literal = $variant:ident
            $({ $($field:ident $(as $form:ty)?),* $(,)? })?
            $(($($value:ident $(as $value_form:ty)?),*))?
    ),* $(,)? }) => {
        impl $crate::util::wire::Wire for $name {
            fn write(&self, w: &mut $crate::util::frame::Writer) {
                match self {$(
                    $name::$variant $({ $($field),* })? $(($($value),*))? => {
                        w.u8($number);
                        $($($crate::util::wire::wire!(@write w, $field $(, $form)?);)*)?
                        $($($crate::util::wire::wire!(@write w, $value $(, $value_form)?);)*)?
                    }
                )*}
            }

            fn read(
                r: &mut $crate::util::frame::Reader<'_>,
            ) -> Result<Self, $crate::util::frame::Bad> {
                match r.u8()? {
                    $($number => {
                        $($(let $field = $crate::util::wire::wire!(@read r $(, $form)?);)*)?
                        $($(let $value = $crate::util::wire::wire!(@read r $(, $value_form)?);)*)?
                        Ok($name::$variant $({ $($field),* })? $(($($value),*))?)
                    })*
                    other => Err($crate::util::frame::Bad::Kind(other)),
                }
            }
        }
    };
    (@write $w:ident, $value:ident) => {
        $crate::util::wire::Wire::write($value, $w)
    };
    (@write $w:ident, $value:ident, $form:ty) => {
        <$form as $crate::util::wire::Form<_>>::write($value, $w)
    };
    (@read $r:ident) => {
        $crate::util::wire::Wire::read($r)?
    };
    (@read $r:ident, $form:ty) => {
        <$form as $crate::util::wire::Form<_>>::read($r)?
    };
}

pub(crate) use wire;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Point {
        x: u32,
        name: String,
    }

    #[derive(Clone, Debug, PartialEq)]
    enum Shape {
        Nothing,
        Dot(Point),
        Path {
            points: Vec<Point>,
            label: Option<Line>,
        },
    }

    wire! { struct Point { x, name as Cut<3> } }
    wire! {
        enum Shape {
            1 = Nothing,
            2 = Dot(point),
            7 = Path { points, label as Maybe<Cut<2>> },
        }
    }

    #[test]
    fn what_is_named_once_goes_both_ways() {
        let point = |name: &str| Point {
            x: 7,
            name: name.to_owned(),
        };
        let path = Shape::Path {
            points: vec![point("a"), point("")],
            label: Line::new("ab").ok(),
        };
        for shape in [Shape::Nothing, Shape::Dot(point("abc")), path] {
            let bytes = shape.to_bytes();
            assert_eq!(Shape::from_bytes(&bytes), Ok(shape));
            for end in 0..bytes.len() {
                assert_eq!(Shape::from_bytes(&bytes[..end]), Err(Bad::Short));
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            assert_eq!(Shape::from_bytes(&longer), Err(Bad::Trailing));
        }
        assert_eq!(
            Shape::Dot(point("ab")).to_bytes(),
            b"\x02\x07\0\0\0\x02\0\0\0ab"
        );
        assert_eq!(Shape::from_bytes(&[3]), Err(Bad::Kind(3)));
        assert_eq!(
            Shape::from_bytes(b"\x07\xff\xff\xff\xff\0"),
            Err(Bad::Short)
        );
    }

    #[test]
    fn a_form_shortens_what_is_written() {
        let long = Point {
            x: 1,
            name: "äää".to_owned(),
        };
        let read = Point::from_bytes(&long.to_bytes()).unwrap();
        assert_eq!(read.name, "ä");
    }

    #[test]
    fn values_have_one_form_each() {
        // Two rows of bytes for one value would be two ways past a check.
        let text = "0:0::1".to_owned().to_bytes();
        assert_eq!(IpAddr::from_bytes(&text), Err(Bad::Value));
        assert_eq!(u16::from_bytes(&[0, 0, 1, 0]), Err(Bad::Value));
        assert_eq!(char::from_bytes(&[0, 0xd8, 0, 0]), Err(Bad::Value));
        assert_eq!(i64::from_bytes(&(-2i64).to_bytes()), Ok(-2));
        let map = BTreeMap::from([(1u32, true), (2, false)]);
        assert_eq!(BTreeMap::from_bytes(&map.to_bytes()), Ok(map));
        let falling = vec![(2u32, true), (1, false)].to_bytes();
        assert_eq!(BTreeMap::<u32, bool>::from_bytes(&falling), Err(Bad::Value));
        let path = PathBuf::from("/var/spool");
        assert_eq!(PathBuf::from_bytes(&path.to_bytes()), Ok(path));
    }
}
