"""Find out with one question whether the Hugging Face hub can be reached.

huggingface_hub asks again for half a minute, and tells so on stderr, where a machine has no network at all; one request
shows the same at once. Only a failure to connect counts: any answer, even a refusal, is left to huggingface_hub, and
so is a machine with a proxy, whose settings it knows better.
"""

import ssl
import urllib.error
import urllib.request

import huggingface_hub.constants


def hub_answers() -> bool:
    """Whether there is a hub to ask; False too where the environment forbids it (HF_HUB_OFFLINE)."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True
    question = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(question, timeout=huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # huggingface_hub has its own certificates, which may know the hub where Python's do not.
        return isinstance(error.reason, ssl.SSLError)
    except OSError:  # a connection that broke while it answered
        return False
