//! A table whose rows are named by small numbers that are used again, each time with another
//! generation: a late answer for a row's former owner finds nobody.

/// Names one row and one of its owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

impl ConnId {
    /// The row in the table of connections.
    pub(super) fn index(self) -> usize {
        self.index as usize
    }
}

pub(super) struct Slab<V> {
    rows: Vec<Row<V>>,
    free: Vec<u32>,
}

struct Row<V> {
    generation: u32,
    value: Option<V>,
}

impl<V> Slab<V> {
    pub(super) fn new() -> Slab<V> {
        Slab {
            rows: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Puts `value` into a free row.
    pub(super) fn insert(&mut self, value: V) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.rows.push(Row {
                generation: 0,
                value: None,
            });
            (self.rows.len() - 1) as u32
        });
        let row = &mut self.rows[index as usize];
        row.generation = row.generation.wrapping_add(1);
        row.value = Some(value);
        ConnId {
            index,
            generation: row.generation,
        }
    }

    /// Takes out what is in a row, whose number may be used again.
    pub(super) fn remove(&mut self, index: usize) -> Option<V> {
        let value = self.rows.get_mut(index)?.value.take()?;
        self.free.push(index as u32);
        Some(value)
    }

    /// Whoever is in the row now.
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut V> {
        self.rows.get_mut(index)?.value.as_mut()
    }

    /// The owner with this name, if it is still there.
    pub(super) fn find(&mut self, id: ConnId) -> Option<&mut V> {
        let row = self.rows.get_mut(id.index())?;
        if row.generation != id.generation {
            return None;
        }
        row.value.as_mut()
    }

    /// The name of the row's present owner.
    pub(super) fn id(&self, index: usize) -> Option<ConnId> {
        let row = self.rows.get(index)?;
        row.value.as_ref()?;
        Some(ConnId {
            index: index as u32,
            generation: row.generation,
        })
    }

    /// The rows in use.
    pub(super) fn indices(&self) -> Vec<usize> {
        (0..self.rows.len())
            .filter(|&index| self.rows[index].value.is_some())
            .collect()
    }

    /// How many rows are in use.
    pub(super) fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_used_again_does_not_answer_to_its_former_name() {
        let mut slab = Slab::new();
        let first = slab.insert("first");
        let other = slab.insert("other");
        assert_eq!(slab.remove(first.index()), Some("first"));
        assert_eq!(slab.remove(first.index()), None);
        let second = slab.insert("second");
        assert_eq!(second.index(), first.index());
        assert_eq!(slab.find(first), None);
        assert_eq!(slab.find(second), Some(&mut "second"));
        assert_eq!(slab.id(second.index()), Some(second));
        assert_eq!((slab.len(), slab.indices().len()), (2, 2));
        assert_eq!(slab.get_mut(other.index()), Some(&mut "other"));
        assert_eq!(slab.get_mut(99), None);
    }

    #[test]
    fn a_row_that_was_used_without_end_starts_over() {
        // OpenSMTPD 5.7.2 ended when its numbers of connections did.
        let mut slab = Slab::new();
        let first = slab.insert(1);
        slab.rows[first.index()].generation = u32::MAX;
        let last = slab.id(first.index()).unwrap();
        slab.remove(last.index());
        let next = slab.insert(2);
        assert_eq!((slab.find(last), next.generation), (None, 0));
        assert_eq!(slab.find(next), Some(&mut 2));
    }
}
