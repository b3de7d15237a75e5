//! The walk from one of them: what its code can come to, by the names that the code has.
//!
//! An attribute of a class of the program's own is followed only if some code that is come to has its name: a task that
//! sleeps in a method does not act on all that `self` has. Where code of an installed package comes in, which may call
//! anything of what it is given, all attributes are followed.

use super::ground::{Ground, Referents};
use crate::capture::python::references::Open;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

/// Most objects that are come to from one task, callback or thread; more leave the question open.
const MAX_OBJECTS: usize = 1500;

/// All that is come to from these referents.
pub(super) fn from(ground: &mut Ground<'_>, roots: &Referents) -> Result<BTreeSet<u64>, Open> {
    let mut walk = Walk::default();
    walk.take(roots);
    while let Some(object) = walk.next.pop() {
        if walk.seen.len() > MAX_OBJECTS {
            return Err(Open);
        }
        let referents = ground.referents(object)?;
        walk.take(&referents);
    }
    Ok(walk.seen)
}

#[derive(Default)]
struct Walk {
    seen: BTreeSet<u64>,
    next: Vec<u64>,
    names: HashSet<Rc<str>>,
    /// Attributes whose name no code has had yet.
    unnamed: HashMap<Rc<str>, Vec<u64>>,
    /// Names do not tell what is used.
    all: bool,
}

impl Walk {
    fn take(&mut self, referents: &Referents) {
        self.go_to(&referents.objects);
        if referents.uses_any && !self.all {
            self.all = true;
            for objects in std::mem::take(&mut self.unnamed).into_values() {
                self.go_to(&objects);
            }
        }
        for name in &referents.names {
            if self.names.insert(Rc::clone(name))
                && let Some(objects) = self.unnamed.remove(name)
            {
                self.go_to(&objects);
            }
        }
        for (name, object) in &referents.attributes {
            if self.all || self.names.contains(name) {
                self.go_to(&[*object]);
            } else {
                self.unnamed
                    .entry(Rc::clone(name))
                    .or_default()
                    .push(*object);
            }
        }
    }

    fn go_to(&mut self, objects: &[u64]) {
        for object in objects {
            if *object != 0 && self.seen.insert(*object) {
                self.next.push(*object);
            }
        }
    }
}
