//! `front`: how the routes of the gateway that Evoke takes over behave.

use crate::setting::choice;

section! {
    /// How the routes of the gateway that Evoke takes over (`/async-function/…`) behave.
    pub struct Front {
        /// Who may cancel calls by `DELETE /async-function/{call-id}`: `open` for everybody, as the gateway has it,
        /// `authenticated` for those with the credentials of `api`, `off` for nobody.
        pub cancel: CancelAccess = "open",
        /// The status for a body over `limits.body`: 413, or 500 as the gateway answers, for callers that know no other.
        pub body_over_limit: BodyOverLimit = "413",
    }
}

choice! {
    /// Who may cancel calls over the front.
    pub enum CancelAccess {
        /// Everybody.
        Open = "open",
        /// Those with the credentials of the management API.
        Authenticated = "authenticated",
        /// Nobody; the management API still can.
        Off = "off",
    }
}

choice! {
    /// The status for a body that is too large.
    pub enum BodyOverLimit {
        /// 413 Content Too Large.
        ContentTooLarge = "413",
        /// 500, as the gateway answers.
        InternalServerError = "500",
    }
}
