"""What a test cluster runs beside the services: the lab's cloud, RabbitMQ, MariaDB, all in one archive."""

import json
import tarfile
from types import ModuleType

from containers import Containers

VERSIONS = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
AMQP = """
import socket
with socket.create_connection(("127.0.0.1", 5672), 5) as connection:
    connection.sendall(b"AMQP\\x00\\x00\\x09\\x01")
    connection.settimeout(5)
    assert connection.recv(1) == b"\\x01"
"""
LISTEN = """
import socket
with socket.create_server(("10.64.1.2", 5000)) as server, socket.create_connection(("10.64.1.2", 5000)) as client:
    print(client.getpeername()[0])
"""


def test_the_simulated_cloud_tells_its_clients_the_name_by_which_they_reach_it(containers: Containers) -> None:
    image = containers.other_image("astara-lab")
    with containers.running(image, "--host", "0.0.0.0", "--advertise", "lab.test", "--tenant", "red") as container:
        said = containers.until(container, "python", "-c", VERSIONS, "http://127.0.0.1:35000/v3")
        assert json.loads(said)["version"]["links"][0]["href"] == "http://lab.test:35000/v3/"
        assert containers.terminate(container) == 0


def test_a_container_that_may_do_so_makes_management_addresses_its_own(containers: Containers) -> None:
    image = containers.other_image("astara-lab")
    script = 'python -m lab.cloud.addresses 10.64.0.0/16 && python -c "$0"'
    options = ("--user=0", "--cap-add=NET_ADMIN", "--entrypoint=sh")
    done = containers.run(image, "-c", script, LISTEN, options=options)
    assert (done.stdout.strip(), done.returncode) == ("10.64.1.2", 0), done.stderr


def test_a_broker_comes_up_as_an_unknown_user(containers: Containers) -> None:
    image = containers.other_image("rabbitmq")
    # In a pod empty folders of its group.
    options = ("--volume=/var/lib/rabbitmq", "--volume=/var/log/rabbitmq")
    with containers.running(image, options=options) as container:
        containers.until(container, "python3", "-c", AMQP)


def test_a_database_comes_up_as_an_unknown_user(containers: Containers) -> None:
    image = containers.other_image("mariadb")
    with containers.running(image, options=("--volume=/var/lib/mysql",)) as container:
        command = ("mariadb", "-h127.0.0.1", "-uastara", "-pastara", "-Ne", "SELECT DATABASE()", "astara")
        assert containers.until(container, *command).strip() == "astara"


def test_one_archive_holds_them_all_and_is_not_made_again_without_a_change(cluster_images: ModuleType) -> None:
    first = cluster_images.ensure(aliases=("next",))
    with tarfile.open(first.archive) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        held = {tag for image in json.load(manifest) for tag in image["RepoTags"]}
    assert held == {*first.names.values(), *first.aliases["next"].values()}
    assert set(first.names) == {*cluster_images.SERVICES, "lab", "rabbitmq", "mariadb", "pause"}
    written = first.archive.stat().st_mtime_ns
    assert cluster_images.ensure(aliases=("next",)) == first
    assert first.archive.stat().st_mtime_ns == written
