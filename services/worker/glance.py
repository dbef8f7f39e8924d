"""Glance as the worker needs it: whether an image can be booted."""

from .cloud import Api
from .errors import NotFoundError


async def why_unusable(glance: Api, image_id: str) -> str:
    """Why Nova could not boot from this image, in words; empty when it could. CloudError when Glance does not say."""
    try:
        image = await glance.get(f"/images/{image_id}")
    except NotFoundError:
        return f"Glance has no image {image_id} that the service user can see"
    if image.get("status") != "active":
        return f"image {image_id} is {image.get('status')}, not active"
    return ""
