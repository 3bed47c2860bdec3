//! The addresses of both planes: bound, or found listened on by others, before anything is made on disk; listened on when
//! there is somebody to answer.

use std::net::SocketAddr;

use super::AppError;
use crate::server::{Bound, Listener, Terms};

/// An address that is bound, and by what it was asked for.
pub(super) struct Address {
    field: &'static str,
    bound: Bound,
}

impl Address {
    /// Binds the address that a field of the configuration names.
    ///
    /// # Errors
    /// [`AppError::Bind`]
    pub(super) fn bind(field: &'static str, address: SocketAddr) -> Result<Self, AppError> {
        match Bound::new(address) {
            Ok(bound) => Ok(Self { field, bound }),
            Err(source) => Err(AppError::Bind {
                address,
                field,
                source,
            }),
        }
    }

    /// Returns the address that is really bound.
    pub(super) fn get(&self) -> SocketAddr {
        self.bound.address()
    }

    /// Lets clients connect.
    ///
    /// # Errors
    /// [`AppError::Bind`]
    pub(super) fn listen(self, terms: Terms) -> Result<Listener, AppError> {
        let Self { field, bound } = self;
        let address = bound.address();
        bound.listen(terms).map_err(|source| AppError::Bind {
            address,
            field,
            source,
        })
    }
}
