//! What went wrong with a request, by what there is to be done about it.

use std::error::Error;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use connectors_sdk::describe;

/// Why a request came to nothing.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What there is to be done.
    pub(crate) trouble: Trouble,
    what: String,
}

/// What there is to be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nobody answered: the connection is gone, or was never there.
    Lost,
    /// Nobody with these credentials is let in, whatever they ask for; or there are none.
    Credentials,
    /// This was not allowed. Something else may be.
    Denied,
    /// There is no such queue.
    Missing,
    /// The message is no longer ours under this receipt handle.
    Stale,
    /// Not now.
    Busy,
    /// Anything else that was answered.
    Other,
}

impl Failure {
    /// Nobody answered.
    pub(crate) fn lost(what: impl Into<String>) -> Failure {
        Failure { trouble: Trouble::Lost, what: what.into() }
    }

    /// One entry of a batch came to nothing.
    pub(crate) fn of_entry(code: &str, message: Option<&str>) -> Failure {
        let what = message.map_or_else(|| code.to_owned(), |message| format!("{code}: {message}"));
        Failure { trouble: by_code(code), what }
    }

    /// As the client says it.
    pub(crate) fn of<E, R>(error: &SdkError<E, R>) -> Failure
    where
        E: ProvideErrorMetadata + Error + 'static,
        R: fmt::Debug,
    {
        if let SdkError::ServiceError(answered) = error {
            let error = answered.err();
            return match error.code() {
                Some(code) => Failure::of_entry(code, error.message()),
                None => Failure { trouble: Trouble::Other, what: describe(error).to_string() },
            };
        }
        let mut what = error.to_string();
        let mut trouble = Trouble::Lost;
        let mut cause = error.source();
        while let Some(error) = cause {
            if error.is::<CredentialsError>() {
                trouble = Trouble::Credentials;
            }
            what = format!("{what}: {error}");
            cause = error.source();
        }
        Failure { trouble, what }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Failure {}

/// What an error code means. Each has two spellings: that of the JSON protocol, and that of the query protocol before it,
/// which AWS still sends in a header for old clients and stand-ins send as the only one.
fn by_code(code: &str) -> Trouble {
    let code = code.rsplit('#').next().unwrap_or(code);
    let code = code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code);
    match code {
        "QueueDoesNotExist" | "NonExistentQueue" | "QueueDeletedRecently" | "InvalidAddress" => {
            Trouble::Missing
        }
        "ReceiptHandleIsInvalid"
        | "InvalidReceiptHandle"
        | "MessageNotInflight"
        | "InvalidParameterValue"
        | "InvalidAttributeValue"
        | "InvalidIdFormat" => Trouble::Stale,
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "AuthFailure"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "OptInRequired" => Trouble::Credentials,
        "AccessDenied" | "AccessDeniedException" | "NotAuthorized" | "InvalidSecurity" => Trouble::Denied,
        code if code.starts_with("Kms") || code.starts_with("KMS.") => Trouble::Denied,
        "RequestThrottled"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "OverLimit"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "InternalError"
        | "InternalFailure"
        | "InternalServerError" => Trouble::Busy,
        _ => Trouble::Other,
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::config::http::HttpResponse;
    use aws_sdk_sqs::error::ErrorMetadata;
    use aws_sdk_sqs::operation::receive_message::ReceiveMessageError;

    use super::*;

    #[test]
    fn both_spellings_of_a_code_are_understood() {
        for (codes, expected) in [
            (
                [
                    "QueueDoesNotExist",
                    "AWS.SimpleQueueService.NonExistentQueue",
                    "com.amazonaws.sqs#QueueDoesNotExist",
                ],
                Trouble::Missing,
            ),
            (
                [
                    "ReceiptHandleIsInvalid",
                    "InvalidParameterValue",
                    "AWS.SimpleQueueService.MessageNotInflight",
                ],
                Trouble::Stale,
            ),
            (["RequestThrottled", "ThrottlingException", "AWS.SimpleQueueService.OverLimit"], Trouble::Busy),
            (["AccessDenied", "AccessDeniedException", "KMS.AccessDeniedException"], Trouble::Denied),
            (["InvalidClientTokenId", "UnrecognizedClientException", "ExpiredToken"], Trouble::Credentials),
        ] {
            assert!(codes.iter().all(|code| by_code(code) == expected), "{codes:?}");
        }
        assert_eq!(by_code("SomethingNew"), Trouble::Other);
    }

    #[test]
    fn an_answer_is_told_from_silence() {
        let metadata = ErrorMetadata::builder().code("QueueDoesNotExist").message("no such queue").build();
        let answered: SdkError<ReceiveMessageError, HttpResponse> = SdkError::service_error(
            ReceiveMessageError::generic(metadata),
            HttpResponse::new(400.try_into().unwrap(), "".into()),
        );
        let failure = Failure::of(&answered);
        assert_eq!(
            (failure.trouble, failure.to_string().as_str()),
            (Trouble::Missing, "QueueDoesNotExist: no such queue")
        );

        let silent: SdkError<ReceiveMessageError, HttpResponse> = SdkError::timeout_error("no answer");
        assert_eq!(Failure::of(&silent).trouble, Trouble::Lost);

        let nobody: SdkError<ReceiveMessageError, HttpResponse> =
            SdkError::construction_failure(CredentialsError::not_loaded("none"));
        assert_eq!(Failure::of(&nobody).trouble, Trouble::Credentials);
    }
}
