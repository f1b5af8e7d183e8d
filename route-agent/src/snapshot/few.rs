//! A list that is nearly always empty.

use std::fmt;
use std::ops::Deref;

/// A list that takes one word while it is empty, where a `Vec` takes three.
#[derive(Clone, PartialEq, Eq)]
pub struct Few<T>(Option<Box<Items<T>>>);

#[derive(Clone, PartialEq, Eq)]
struct Items<T>(Vec<T>);

impl<T> Few<T> {
    /// An empty list.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Appends an item.
    pub fn push(&mut self, item: T) {
        let items = self.0.get_or_insert_with(|| Box::new(Items(Vec::new())));
        items.0.push(item);
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_ref().map_or(&[], |items| &items.0)
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(items: Vec<T>) -> Self {
        Self((!items.is_empty()).then(|| Box::new(Items(items))))
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        items.into_iter().collect::<Vec<T>>().into()
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: fmt::Debug> fmt::Debug for Few<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list_and_small_while_it_is_empty() {
        let mut few: Few<u8> = Few::new();
        assert!(few.is_empty());
        assert_eq!(few, Vec::new().into());
        few.push(1);
        few.push(2);
        assert_eq!(*few, [1, 2]);
        assert_eq!(few, [1, 2].into_iter().collect());
        assert_eq!(size_of::<Few<u8>>(), size_of::<usize>());
    }
}
