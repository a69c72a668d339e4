//! The places of the wall's viewers: of all, and of those with one token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use orderbell_protocol::Id;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module.
#[derive(Debug)]
pub(super) struct Viewers {
    all: Arc<Semaphore>,
    /// By the name in the token; only those that have viewers. A renewed token of the same name counts with the one before.
    of_tokens: Mutex<HashMap<Id, usize>>,
    max_per_token: usize,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// As many view as may.
    Full,
    /// As many view with this token as may.
    TokenFull,
}

/// The place of one viewer, for as long as it is kept.
#[derive(Debug)]
pub(super) struct ViewerPlace {
    viewers: Arc<Viewers>,
    /// None on an open wall.
    token: Option<Id>,
    _permit: OwnedSemaphorePermit,
}

impl Viewers {
    pub(super) fn new(max: usize, max_per_token: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(max)), of_tokens: Mutex::default(), max_per_token }
    }

    /// A place for a viewer with a token of this name; without one on an open wall.
    pub(super) fn admit(self: &Arc<Self>, token: Option<&Id>) -> Result<ViewerPlace, NoPlace> {
        let permit = self.all.clone().try_acquire_owned().map_err(|_| NoPlace::Full)?;
        if let Some(token) = token {
            let mut of_tokens = self.of_tokens.lock().unwrap_or_else(PoisonError::into_inner);
            let count = of_tokens.get(token).copied().unwrap_or(0);
            if count >= self.max_per_token {
                return Err(NoPlace::TokenFull);
            }
            of_tokens.insert(token.clone(), count + 1);
        }
        Ok(ViewerPlace { viewers: self.clone(), token: token.cloned(), _permit: permit })
    }
}

impl Drop for ViewerPlace {
    fn drop(&mut self) {
        let Some(token) = &self.token else { return };
        let mut of_tokens = self.viewers.of_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        match of_tokens.get_mut(token) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(of_tokens.remove(token)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_leaves_places_for_another_and_who_leaves_makes_room() {
        let viewers = Arc::new(Viewers::new(4, 2));
        let (hall, office) = (Id::new("hall").unwrap(), Id::new("office").unwrap());
        let mut in_hall: Vec<_> = (0..2).map(|_| viewers.admit(Some(&hall)).unwrap()).collect();
        assert_eq!(viewers.admit(Some(&hall)).unwrap_err(), NoPlace::TokenFull, "one above");
        let in_office = viewers.admit(Some(&office)).expect("its neighbour");
        in_hall.pop();
        in_hall.push(viewers.admit(Some(&hall)).unwrap());
        let open = viewers.admit(None).expect("a place that its refusal gave back");
        assert_eq!(viewers.admit(None).unwrap_err(), NoPlace::Full);
        drop((in_hall, in_office, open));
        assert!(viewers.of_tokens.lock().unwrap().is_empty());
        assert_eq!(viewers.all.available_permits(), 4);
    }
}
