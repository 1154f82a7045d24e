//! What a client has sent, where the cache negotiates in the application's place.

use http::{Extensions, HeaderMap};

/// What a client has sent in `Accept-Encoding` and `Accept-Language`, where [`Vary::negotiate`](crate::Vary::negotiate) or
/// [`Vary::languages`](crate::Vary::languages) has put something else in their place: in the extensions of the request that the
/// application gets, and only there, since a request that goes through as it came has its own fields still.
///
/// It is for logs and statistics. A response that is made by it is stored for all clients that were negotiated the same, whatever
/// else they have sent.
///
/// ```
/// use cache_layer::ClientPreferences;
/// use http::{Request, header::ACCEPT_LANGUAGE};
///
/// fn log<B>(request: &Request<B>) {
///     let preferences = request.extensions().get::<ClientPreferences>().map(ClientPreferences::headers);
///     let languages = preferences.unwrap_or(request.headers()).get(ACCEPT_LANGUAGE);
///     println!("{languages:?}");
/// }
/// # log(&Request::new(()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPreferences(HeaderMap);

impl ClientPreferences {
    /// The two fields as the client has sent them, all lines of each, those that were left as they are included.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0
    }

    /// Keeps them, unless a cache further out has done so.
    pub(super) fn keep(sent: HeaderMap, extensions: &mut Extensions) {
        extensions.get_or_insert_with(|| Self(sent));
    }
}
