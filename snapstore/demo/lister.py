"""What is in the bucket, as plain botocore tells."""

from __future__ import annotations

from typing import Any

from snapstore.demo.target import DemoError, Target, verify

__all__ = ["IndependentLister"]


class IndependentLister:
    """Lists what is in the bucket with plain botocore, without any code of snapstore.

    It blocks: it is for a thread.
    """

    def __init__(self, target: Target) -> None:
        from botocore.session import get_session

        self._target = target
        self._client: Any = get_session().create_client(
            "s3", region_name=target.region, endpoint_url=target.endpoint_url
        )
        self.endpoint_url: str = self._client.meta.endpoint_url

    def keys(self) -> list[str]:
        """The keys of the session."""
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, prefix = self._target.bucket, self._target.session
        try:
            page = self._client.list_objects_v2(Bucket=bucket, Prefix=prefix)
        except (BotoCoreError, ClientError) as error:
            raise DemoError(f"plain botocore can't list {bucket}/{prefix}: {error}") from error
        verify(page["IsTruncated"] is False, "the listing by plain botocore is cut short")
        return [found["Key"] for found in page.get("Contents", ())]

    def close(self) -> None:
        """Close the client."""
        self._client.close()
