//! The field's words in frames.

use crate::util::frame::{Bad, Reader, Writer};
use crate::util::wire::{Wire, wire};

use super::{Command, EvpId, MailAddr, MsgId, Peer};

wire! {
    enum Command {
        1 = Pipe(text),
        2 = File(text),
    }
}

impl Wire for MsgId {
    fn write(&self, w: &mut Writer) {
        w.u32(self.get());
    }

    fn read(r: &mut Reader<'_>) -> Result<MsgId, Bad> {
        MsgId::new(r.u32()?).ok_or(Bad::Value)
    }
}

impl Wire for EvpId {
    fn write(&self, w: &mut Writer) {
        w.u64(self.get());
    }

    fn read(r: &mut Reader<'_>) -> Result<EvpId, Bad> {
        EvpId::from_u64(r.u64()?).ok_or(Bad::Value)
    }
}

impl Wire for MailAddr {
    fn write(&self, w: &mut Writer) {
        w.text(self.user());
        w.text(self.domain());
    }

    fn read(r: &mut Reader<'_>) -> Result<MailAddr, Bad> {
        let (user, domain) = (r.text()?, r.text()?);
        MailAddr::new(user, domain).map_err(|_| Bad::Value)
    }
}

/// In the one form that it is printed in.
impl Wire for Peer {
    fn write(&self, w: &mut Writer) {
        w.text(&self.to_string());
    }

    fn read(r: &mut Reader<'_>) -> Result<Peer, Bad> {
        let text = r.text()?;
        let peer = Peer::parse(text).filter(|peer| peer.to_string() == text);
        peer.ok_or(Bad::Value)
    }
}
