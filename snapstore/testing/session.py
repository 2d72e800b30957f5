"""A session of aiobotocore on which this machine has no say: tests run the same on any."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiobotocore.session import AioSession

__all__ = ["isolated_session"]


def isolated_session(access_key: str, secret_key: str, region: str) -> AioSession:
    """Make a session that reads no `AWS_*` variable, no proxy's, and no file under `~/.aws`.

    Args:
        access_key: The access key id that its clients sign with.
        secret_key: Its secret.
        region: The region that they sign for.

    Returns:
        A session of its own, since one is not to be used by several threads at once. The
        description of S3, which takes long to read, is shared by all.

    Example:
        >>> session = isolated_session("key", "secret", "us-east-1")
    """
    from aiobotocore.config import AioConfig
    from aiobotocore.session import AioSession

    # Each is (name in the configuration file, variable, default, conversion).
    defaults = {
        name: (None, None, default, None)
        for name, (_, _, default, _) in AioSession.SESSION_VARIABLES.items()
    }
    own = {
        "config_file": os.devnull,
        "credentials_file": os.devnull,
        "region": region,
        "ca_bundle": True,  # or it is looked up in REQUESTS_CA_BUNDLE
        # What botocore reads beside its session variables.
        "s3": None,
        "proxies_config": None,
    }
    session = AioSession(
        defaults | {name: (None, None, value, None) for name, value in own.items()}
    )
    session.register_component("data_loader", _data_loader())
    session.set_credentials(access_key, secret_key)
    session.set_default_client_config(AioConfig(proxies={}))
    return session


@functools.cache
def _data_loader() -> Any:
    from botocore.loaders import Loader

    # Without ~/.aws/models.
    return Loader([Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
