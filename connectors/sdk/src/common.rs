//! The settings that every source which listens to topics has.

use broker_model::SourceName;

use crate::connector::Connector;
use crate::form::EventForm;
use crate::settings::{Reader, Topics};
use crate::source::SourceContext;
use crate::tracker::WindowLimits;
use crate::wishes::{Carries, Following};

/// `topics`, `in_flight`, `s3_notifications`, and those of [`EventForm`].
#[derive(Clone, Debug)]
pub struct Common {
    /// Which topics.
    pub topics: Topics,
    /// How much is on its way into the broker at once.
    pub in_flight: WindowLimits,
    /// How messages become events.
    pub form: EventForm,
    carries: Carries,
}

impl Common {
    /// Reads them. `carries` says why a name cannot be one of this upstream: in a list that is a problem; what functions ask
    /// for under such a name is another source's.
    pub fn read(at: &mut Reader, source: &SourceName, connector: &dyn Connector, carries: Carries) -> Self {
        let mut form = EventForm::read(at, source, connector.kind(), connector.wildcards());
        form.read_s3(at);
        Common { topics: at.topics(carries), in_flight: at.in_flight(), form, carries }
    }

    /// What to listen to, now and as it changes.
    pub fn follow(&self, ctx: &SourceContext) -> Following {
        Following::new(ctx, &self.topics, &self.form, self.carries)
    }
}
