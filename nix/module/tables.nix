# What the daemon knows: its options, the fields that manifests of each kind may have, and the types of
# these.  Written by tools/nix_tables from spec/options.def, spec/kinds.def and spec/types.def.
{
  options = {
    node_name = { kind = "text"; default = ""; text = "Name of this node; the host's name when empty."; };
    data_folder = { kind = "text"; default = ""; text = "Where the node keeps its data (server: /var/lib/blixard, dev: your state folder)."; };
    api_address = { kind = "text"; default = "127.0.0.1:7420"; text = "HOST:PORT of the REST API; loopback only."; };
    api_socket = { kind = "text"; default = ""; text = "Path of the API's unix socket; DATA_FOLDER/api.sock when empty, \"none\" for none."; };
    gateway_address = { kind = "text"; default = "127.0.0.1:7480"; text = "HOST:PORT where functions are called."; };
    gateway_tls_address = { kind = "text"; default = "127.0.0.1:7443"; text = "HOST:PORT where functions are called over HTTPS, when there is a certificate."; };
    gateway_tls_certificate = { kind = "text"; default = ""; text = "File with the gateway's certificate and those that lead to its authority, PEM; read anew when it changes, and on SIGHUP.  No HTTPS when empty."; };
    gateway_tls_key = { kind = "text"; default = ""; text = "File with the key of that certificate, PEM, without a passphrase."; };
    cluster_address = { kind = "text"; default = "0.0.0.0:7421"; text = "HOST:PORT for other nodes and remote clients, mutual TLS; nothing listens there before the node is in a cluster."; };
    advertise_address = { kind = "text"; default = ""; text = "HOST or HOST:PORT at which others reach cluster_address; found out when empty."; };
    failure_domain = { kind = "text"; default = ""; text = "What the node shares a fate with (a rack, a room); servers are spread over them."; };
    region = { kind = "text"; default = ""; text = "Where the node stands: region of its topology; a label `region` goes before it."; };
    zone = { kind = "text"; default = ""; text = "The same: zone."; };
    rack = { kind = "text"; default = ""; text = "The same: rack."; };
    reserved_cpu_millis = { kind = "count"; default = 0; least = 0; most = 1024000; text = "Of this node's CPUs, thousandths that machines and functions are not given."; };
    reserved_memory_bytes = { kind = "bytes"; default = 268435456; least = 0; most = 1125899906842624; text = "Of this node's memory, what machines and functions are not given."; };
    reserved_disk_bytes = { kind = "bytes"; default = 1073741824; least = 0; most = 1125899906842624; text = "Of the disk of its data folder, what machines are not given."; };
    overcommit_cpu_percent = { kind = "count"; default = 400; least = 100; most = 10000; text = "What may be placed here of its CPUs, in percent of what is not reserved."; };
    overcommit_memory_percent = { kind = "count"; default = 100; least = 100; most = 1000; text = "The same of its memory."; };
    overcommit_disk_percent = { kind = "count"; default = 200; least = 100; most = 10000; text = "The same of its disk: files of machines grow with their content."; };
    join_token_file = { kind = "text"; default = ""; text = "File with the token that a new node joins its cluster with; \"-\" is standard input."; };
    join_addresses = { kind = "text"; default = ""; text = "HOST:PORT of nodes with commas, at most 8, that a new node asks instead of those its token names."; };
    certificate_lifetime_ms = { kind = "milliseconds"; default = 2592000000; least = 10000; most = 315360000000; text = "How long the certificates of nodes are good that this node signs; they are renewed at two thirds of it."; };
    isolation = { kind = "text"; default = "auto"; text = "auto, microvm (refuse to start without KVM) or process."; };
    log_level = { kind = "text"; default = "info"; text = "error, warn, info or debug."; };
    slots_per_runner = { kind = "count"; default = 16; least = 1; most = 64; text = "Function VMs in one runner process."; };
    runners_max = { kind = "count"; default = 16; least = 1; most = 256; text = "Runner processes per project."; };
    host_calls_max = { kind = "count"; default = 10000; least = 1; most = 100000000; text = "Questions a call of a function may ask its host (blixard_v1), in each 30 s that it lasts."; };
    fetch_max = { kind = "count"; default = 256; least = 0; most = 65536; text = "Requests of functions to elsewhere (fetch) at once; 0: functions fetch nothing on this node."; };
    fetch_function_max = { kind = "count"; default = 64; least = 1; most = 65536; text = "Of these, most of one version of a function."; };
    fetch_body_bytes_max = { kind = "bytes"; default = 67108864; least = 0; most = 1099511627776; text = "Largest body that a function may fetch, decoded."; };
    fetch_refused = { kind = "text"; default = ""; text = "Addresses and networks with commas that functions never fetch from, whatever their lists say: 169.254.0.0/16,10.0.0.0/8."; };
    fetch_authority_file = { kind = "text"; default = ""; text = "Whom functions believe that fetch by https, PEM; the system's when empty."; };
    machine_macvtap_links = { kind = "text"; default = ""; text = "Network links of this node with commas that runners may have macvtaps on, past its packet filter; none when empty."; };
    machine_devices = { kind = "text"; default = "all"; text = "Which devices of this node machines may have (vm create --device), with commas: of those on PCI that vfio-pci has, all, classes (gpu), VENDOR:DEVICE and addresses; of those on USB, which the host loses then, usb for all, classes (usb:serial), usb:VENDOR:PRODUCT and ports (usb:1-2.3); or none."; };
    machine_share_folders = { kind = "text"; default = ""; text = "Folders of this node with commas that machines may share (vm create --share), and what is below them; none when empty."; };
    machine_runner_folders = { kind = "text"; default = ""; text = "Folders of this node with commas below which runners of machines may be (vm create --runner): /nix/store; none when empty."; };
    image_copies = { kind = "count"; default = 2; least = 1; most = 16; text = "Nodes that are to have what machines start from: so many keep each image, and fetch it when one of them is lost, drained or removed; the same on all nodes; 1: where it was imported, and where its machines are, alone."; };
    image_unused_ms = { kind = "milliseconds"; default = 600000; least = 0; most = 31536000000; text = "How long what machines started from stays on this node's disk when no image, machine, snapshot or version of a function needs it any more."; };
    machine_memory_percent = { kind = "count"; default = 0; least = 0; most = 1000; text = "What running machines may have together of this node's memory, in percent: more than 100 is more than there is; a machine beyond it is not started; 0: any."; };
    placement_displaced_max = { kind = "count"; default = 8; least = 0; most = 64; text = "Machines of lower priority that one which finds no room may displace; 0: none."; };
    placement_hold_after_ms = { kind = "milliseconds"; default = 60000; least = 0; most = 604800000; text = "How long a machine waits for room until a node is held for it, so that smaller ones that came later do not pass it for ever; 0: no node is ever held."; };
    placement_holds_max = { kind = "count"; default = 4; least = 1; most = 1000; text = "Nodes of a pool that are held at once for machines that wait; never more than half of them, rounded up."; };
    machine_stop_ms = { kind = "milliseconds"; default = 30000; least = 100; most = 86400000; text = "How long a machine may take to go down when it is stopped; then it is ended at once."; };
    machine_moves_max = { kind = "count"; default = 2; least = 1; most = 64; text = "Machines that leave this node at once, when it is drained or the cluster rebalanced."; };
    rebalance_every_ms = { kind = "milliseconds"; default = 0; least = 0; most = 604800000; text = "How often the node that leads evens out the nodes by moving machines; 0: never by itself."; };
    rebalance_threshold_percent = { kind = "count"; default = 20; least = 1; most = 100; text = "Nothing is moved while the fullest and the emptiest node differ by less, in the share of their scarcest resource."; };
    rebalance_batch = { kind = "count"; default = 4; least = 1; most = 256; text = "Machines that one rebalancing moves at most."; };
    rebalance_cooldown_ms = { kind = "milliseconds"; default = 600000; least = 0; most = 604800000; text = "How long a machine that was moved is not moved again by rebalancing; 0: it may be at once."; };
    traffic_every_ms = { kind = "milliseconds"; default = 60000; least = 0; most = 3600000; text = "How often the node looks at who exchanges how much data with whom, for placement; 0: never."; };
    node_loss_wait_ms = { kind = "milliseconds"; default = 0; least = 0; most = 604800000; text = "How much longer than the 24 s that are safe a lost node is waited for before machines of it with --node-loss restart-fresh start elsewhere; of the node that leads."; };
    build_threads = { kind = "count"; default = 1; least = 1; most = 16; text = "Modules compiled at once."; };
    build_optimized = { kind = "count"; default = 1; least = 0; most = 1; text = "Whether code that was compiled quickly is replaced by optimised code, which takes much longer to make; 0: it stays, where versions are soon replaced by others."; };
    forecast_step_ms = { kind = "milliseconds"; default = 60000; least = 10000; most = 3600000; text = "How long a step of forecasts is; a day must be a whole number of them.  What was learnt in other steps is forgotten."; };
    image_cache_bytes_max = { kind = "bytes"; default = 4294967296; least = 0; most = 1099511627776; text = "Compiled images on this node's disk, beyond those of versions that can be called; what was used least recently goes, and is compiled or fetched again when it is needed; 0: any number."; };
    module_bytes_max = { kind = "bytes"; default = 67108864; least = 1024; most = 1073741824; text = "Largest module that may be uploaded."; };
    body_bytes_max = { kind = "bytes"; default = 67108864; least = 1024; most = 1099511627776; text = "Largest request body for a function."; };
    nix_cache_address = { kind = "text"; default = ""; text = "HOST:PORT where this node's Nix store is a binary cache, by HTTP, or with a certificate by HTTPS alone: 127.0.0.1:7430; nothing listens when empty."; };
    nix_cache_tls_certificate = { kind = "text"; default = ""; text = "File with the binary cache's certificate and those that lead to its authority, PEM; read anew when it changes, and on SIGHUP.  In the clear when empty."; };
    nix_cache_tls_key = { kind = "text"; default = ""; text = "File with the key of that certificate, PEM, without a passphrase."; };
    nix_upload_token_file = { kind = "text"; default = ""; text = "File with the token that uploads to it take (the password of netrc), read anew each time; nobody uploads when empty."; };
    nix_read_token_file = { kind = "text"; default = ""; text = "The same for reading from it; whoever reaches it reads when empty."; };
    nix_trusted_keys = { kind = "text"; default = ""; text = "Public keys, NAME:BASE64 with blanks between them, whose signatures this node takes paths by, beside the cluster's own."; };
    nix_packed_bytes_max = { kind = "bytes"; default = 4294967296; least = 1048576; most = 1125899906842624; text = "Store paths that lie packed for others; what was asked for least recently goes, and is packed again when it is."; };
    log_bytes_max = { kind = "bytes"; default = 8388608; least = 65536; most = 1099511627776; text = "Log kept per function."; };
    traces_max = { kind = "count"; default = 1000; least = 1; most = 1000000; text = "Traces kept on this node, the last ones."; };
    trace_bytes_max = { kind = "bytes"; default = 33554432; least = 65536; most = 17179869184; text = "Memory for them."; };
    traces_per_second = { kind = "count"; default = 10; least = 0; most = 1000000; text = "Traces that begin here and are kept for sure, in each second."; };
    trace_sample_percent = { kind = "count"; default = 1; least = 0; most = 100; text = "Of those beyond, how many of a hundred are kept; errors and slow ones always are."; };
    trace_slow_ms = { kind = "milliseconds"; default = 1000; least = 1; most = 86400000; text = "What takes as long as this is slow, and its trace is kept."; };
    otlp_endpoint = { kind = "text"; default = ""; text = "Where kept traces are sent, by OTLP over HTTP: http://HOST:4318; nowhere when empty."; };
    otlp_compression = { kind = "text"; default = "none"; text = "How they are packed on the way: none or gzip."; };
    otlp_headers_file = { kind = "text"; default = ""; text = "File with lines \"Name: value\" for those requests, for example Authorization."; };
    otlp_authority_file = { kind = "text"; default = ""; text = "For https: the certificates to believe, PEM; the system's when empty."; };
    drain_timeout_ms = { kind = "milliseconds"; default = 10000; least = 0; most = 600000; text = "How long requests in flight may take when the node stops."; };
  };
  kinds = {
    Quota = {
      way = "PUT";
      hasNode = false;
      fields = {
        cpus = { kind = "U64"; must = false; text = "Virtual CPUs of its machines."; };
        memory_bytes = { kind = "U64"; must = false; text = "Memory of its machines."; };
        disk_bytes = { kind = "U64"; must = false; text = "What the disks of its machines and its volumes may hold."; };
        machines = { kind = "U64"; must = false; text = "Machines."; };
        functions = { kind = "U64"; must = false; text = "Functions."; };
        devices = { kind = "U64"; must = false; text = "Devices of nodes that its machines ask for."; };
        requests_per_second = { kind = "U64"; must = false; text = "Requests from outside, on the long run; each node lets its part in."; };
        instances = { kind = "U64"; must = false; text = "Instances of its functions; each node has its part, rounded up."; };
      };
    };
    Node = {
      way = "NODE";
      hasNode = false;
      fields = {
        role = { kind = "STRING"; must = false; text = "server or worker."; };
        failure_domain = { kind = "STRING"; must = false; text = "What it shares a fate with."; };
        labels = { kind = "MAP"; must = false; text = "Labels."; };
        pool = { kind = "STRING"; must = false; text = "The pool that it belongs to."; };
        taints = { kind = "LIST(NodeTaintSpec)"; must = false; text = "All its taints, in any order."; };
        windows = { kind = "LIST(NodeWindowSpec)"; must = false; text = "All windows in which it is maintained, in any order."; };
      };
    };
    Secret = {
      way = "REFERENCE";
      hasNode = false;
      fields = {
      };
    };
    SecurityGroup = {
      way = "GROUP";
      hasNode = false;
      fields = {
        rules = { kind = "LIST(SecurityRule)"; must = false; text = "Its rules, all of them."; };
      };
    };
    PlacementGroup = {
      way = "PATCH";
      hasNode = false;
      fields = {
        name = { kind = "STRING"; must = true; text = "Its name."; };
        policy = { kind = "STRING"; must = false; text = "spread (default): its machines on different nodes; compact: on one."; };
        rigor = { kind = "STRING"; must = false; text = "strict (default): or not at all; permissive: where it can be."; };
      };
    };
    Network = {
      way = "PATCH";
      hasNode = false;
      fields = {
        name = { kind = "STRING"; must = true; text = "Its name, a DNS label."; };
        subnet = { kind = "STRING"; must = false; text = "Its addresses, as 10.1.0.0/24 (default: a free /24 of 10.64.0.0/10)."; };
        gateway = { kind = "STRING"; must = false; text = "Its address on each node (default: the first one)."; };
        mode = { kind = "STRING"; must = false; text = "nat (default): out by the node's address; routed: in and out by its own; closed: neither."; };
        mtu = { kind = "U64"; must = false; text = "Largest packet (default 1450, so that a tunnel between nodes has room)."; };
        peering = { kind = "BOOL"; must = false; text = "Other networks of the project that say so too reach it, and it them."; };
        dns = { kind = "LIST(STRING)"; must = false; text = "Resolvers that names of elsewhere are asked of, at most 3 (default: as the node has them)."; };
        description = { kind = "STRING"; must = false; text = "For people; one line."; };
      };
    };
    Image = {
      way = "PUT";
      hasNode = false;
      fields = {
        kernel = { kind = "STRING"; must = false; text = "Blob: an ELF file with a PVH entry."; };
        kernel_version = { kind = "STRING"; must = false; text = "Its version."; };
        initrd = { kind = "STRING"; must = false; text = "Blob: a cpio archive with the modules that it needs."; };
        root = { kind = "STRING"; must = false; text = "Blob: the root file system."; };
        root_format = { kind = "STRING"; must = false; text = "erofs, squashfs or ext4."; };
        cmdline = { kind = "STRING"; must = false; text = "Words for the kernel."; };
        disk = { kind = "STRING"; must = false; text = "Blob: a whole disk that boots by itself, qcow2 or raw; then there is no kernel and no root."; };
        firmware = { kind = "STRING"; must = false; text = "bios (default) or uefi: what that disk is booted by."; };
        without_agent = { kind = "BOOL"; must = false; text = "The disk has neither an agent nor cloud-init: its machines are running as soon as they are started."; };
        brings_agent = { kind = "BOOL"; must = false; text = "It boots by its own initrd and its own words for the kernel, and begins the agent itself: for functions."; };
        size_bytes = { kind = "U64"; must = false; text = "All of it."; };
        source = { kind = "STRING"; must = false; text = "Where it is from, for people."; };
        digest = { kind = "STRING"; must = false; text = "Of an OCI image: its manifest's."; };
        entrypoint = { kind = "LIST(STRING)"; must = false; text = "The program that a machine runs instead of an init."; };
        command = { kind = "LIST(STRING)"; must = false; text = "Its arguments, or, without an entrypoint, the program."; };
        environment = { kind = "LIST(STRING)"; must = false; text = "NAME=VALUE, of that program."; };
        folder = { kind = "STRING"; must = false; text = "Where it begins."; };
        user = { kind = "STRING"; must = false; text = "As whom: USER or USER:GROUP."; };
        ports = { kind = "LIST(STRING)"; must = false; text = "Ports that it listens on, as 80/tcp."; };
        volumes = { kind = "LIST(STRING)"; must = false; text = "Folders that it keeps data in."; };
      };
    };
    Volume = {
      way = "PATCH";
      hasNode = true;
      fields = {
        name = { kind = "STRING"; must = true; text = "Its name, a DNS label."; };
        size_bytes = { kind = "U64"; must = false; text = "What it may hold, whole blocks of 4096 bytes (default 10 GiB; the file grows with its content)."; };
        format = { kind = "STRING"; must = false; text = "qcow2 (default) or raw."; };
        filesystem = { kind = "STRING"; must = false; text = "ext4 (default) or none."; };
        from_volume = { kind = "STRING"; must = false; text = "A clone of a snapshot of this volume,"; };
        from_snapshot = { kind = "STRING"; must = false; text = "which has this name."; };
        secret = { kind = "STRING"; must = false; text = "Encrypted (LUKS) with the value of this secret."; };
        encrypt = { kind = "BOOL"; must = false; text = "Encrypted with a key that is made for it, and kept as a secret."; };
        iops = { kind = "U64"; must = false; text = "Reads and writes per second at most (0: no limit)."; };
        bandwidth = { kind = "U64"; must = false; text = "Bytes per second at most (0: no limit)."; };
        read_iops = { kind = "U64"; must = false; text = "Reads per second at most, instead of iops (0: no limit)."; };
        write_iops = { kind = "U64"; must = false; text = "Writes per second at most (0: no limit)."; };
        read_bandwidth = { kind = "U64"; must = false; text = "Bytes per second that are read at most, instead of bandwidth (0: no limit)."; };
        write_bandwidth = { kind = "U64"; must = false; text = "Bytes per second that are written at most (0: no limit)."; };
      };
    };
    Queue = {
      way = "PATCH";
      hasNode = false;
      fields = {
        name = { kind = "STRING"; must = true; text = "Its name."; };
        fifo = { kind = "BOOL"; must = false; text = "Groups in order, one message of each in flight."; };
        visibility_ms = { kind = "U64"; must = false; text = "How long a received message is hidden (default 30000)."; };
        retention_ms = { kind = "U64"; must = false; text = "How long a message is kept (default 345600000, 4 days)."; };
        delay_ms = { kind = "U64"; must = false; text = "How long a new message is hidden (default 0)."; };
        dedup_ms = { kind = "U64"; must = false; text = "How long a dedup id is remembered (default 300000)."; };
        max_depth = { kind = "U64"; must = false; text = "Messages at most (default 100000); beyond, sending answers 429."; };
        max_bytes = { kind = "U64"; must = false; text = "Bytes of bodies and attributes at most (default 256 MiB)."; };
        max_receives = { kind = "U64"; must = false; text = "Deliveries before a message is a dead letter (default 5 with dead_letter)."; };
        dead_letter = { kind = "STRING"; must = false; text = "The queue that dead letters go to."; };
      };
    };
    Stream = {
      way = "PATCH";
      hasNode = false;
      fields = {
        name = { kind = "STRING"; must = true; text = "Its name."; };
        partitions = { kind = "U64"; must = false; text = "1 to 64 (default 4), for good."; };
        retention_ms = { kind = "U64"; must = false; text = "How long a record is kept (default 86400000, 24 hours)."; };
        retention_bytes = { kind = "U64"; must = false; text = "How much is kept, over all partitions (default 64 MiB)."; };
      };
    };
    Function = {
      way = "FUNCTION";
      hasNode = false;
      fields = {
        module = { kind = "STRING"; must = true; text = "Id of the uploaded module."; };
        language = { kind = "STRING"; must = false; text = "Source language, for people: c, cpp, rust, assemblyscript, javascript, ..."; };
        flake = { kind = "STRING"; must = false; text = "What the module was built of, for people; the command line builds it."; };
        runtime = { kind = "STRING"; must = false; text = "wasm (default), or linux: a program in a Linux machine; module is a tar archive then, and image is needed."; };
        image = { kind = "STRING"; must = false; text = "Of linux: the machine image."; };
        runner = { kind = "STRING"; must = false; text = "Of linux: the runner of microvm.nix whose guest the image is, for people; the command line makes the image."; };
        handler = { kind = "STRING"; must = false; text = "Of linux: MODULE.FUNCTION that is called (language python or javascript), or whatever the command makes of it."; };
        command = { kind = "LIST(STRING)"; must = false; text = "Of linux: the bootstrap, which speaks the Lambda Runtime API; without it and handler /var/task/bootstrap."; };
        memory_bytes = { kind = "U64"; must = false; text = "Most linear memory (default 128 MiB)."; };
        timeout_ms = { kind = "U64"; must = false; text = "Wall-clock limit of a call (default 30000)."; };
        output_bytes_max = { kind = "U64"; must = false; text = "Most output of a call (default 16 MiB)."; };
        log_bytes_max = { kind = "U64"; must = false; text = "Most log of a call (default 1 MiB)."; };
        tmp_bytes_max = { kind = "U64"; must = false; text = "Most that files in /tmp may take (default 16 MiB)."; };
        concurrency_max = { kind = "U64"; must = false; text = "Calls at once on a node; 0: what the node gives."; };
        queue_max = { kind = "U64"; must = false; text = "Calls that may wait on a node (default 128)."; };
        reuse = { kind = "STRING"; must = false; text = "request (default): each call finds the memory of the snapshot; instance: what the call before it left (handlers only)."; };
        instances_min = { kind = "U64"; must = false; text = "Instances that are there on a node before anybody calls (default 0)."; };
        instances_max = { kind = "U64"; must = false; text = "Instances on a node, idle or busy; 0: what the node gives."; };
        idle_ms = { kind = "U64"; must = false; text = "Without a call for so long, instances beyond instances_min go (default 600000); 0: never."; };
        recycle_requests = { kind = "U64"; must = false; text = "An instance begins anew after so many calls; 0: never."; };
        recycle_ms = { kind = "U64"; must = false; text = "An instance begins anew after so long; 0: never."; };
        environment = { kind = "MAP"; must = false; text = "Environment variables."; };
        fetch = { kind = "REF(Fetch)"; must = false; text = "What it may fetch from elsewhere; nothing without it."; };
        secrets = { kind = "MAP"; must = false; text = "Environment variables whose values are secrets of the project: names of variables to names of secrets."; };
        placement = { kind = "REF(FunctionPlacement)"; must = false; text = "Which nodes have it (default: all)."; };
        async = { kind = "REF(Async)"; must = false; text = "Of asynchronous calls that ask for nothing else."; };
      };
    };
    Alias = {
      way = "ALIAS";
      hasNode = false;
      fields = {
        version = { kind = "U64"; must = false; text = "A ready version, which gets all calls; or:"; };
        weights = { kind = "MAP"; must = false; text = "Version number to weight (1 to 1000), as text: each gets its share of the sum."; };
        sticky = { kind = "STRING"; must = false; text = "header:NAME or cookie:NAME: requests with the same value get the same version."; };
      };
    };
    Machine = {
      way = "PATCH";
      hasNode = true;
      fields = {
        name = { kind = "STRING"; must = true; text = "Its name, a DNS label."; };
        image = { kind = "STRING"; must = false; text = "The image it starts from."; };
        runner = { kind = "STRING"; must = false; text = "Instead of an image: the path of a microvm.nix runner at its node, below one of the folders that the node runs machines from."; };
        flake = { kind = "STRING"; must = false; text = "What the runner was built of, for people; the command line builds it."; };
        cpus = { kind = "U64"; must = false; text = "Virtual CPUs (default 1)."; };
        memory_bytes = { kind = "U64"; must = false; text = "Memory, whole MiB (default 256 MiB)."; };
        disk_bytes = { kind = "U64"; must = false; text = "What it may write over its image (default 8 GiB; the file grows with its content)."; };
        publish = { kind = "LIST(STRING)"; must = false; text = "[ADDRESS:]HOST-PORT:GUEST-PORT[/udp]: ports of the node that lead into it."; };
        strategy = { kind = "STRING"; must = false; text = "Always, RerunOnFailure (default), Once, Manual or Halted."; };
        hostname = { kind = "STRING"; must = false; text = "Its host name (default: its name)."; };
        driver = { kind = "STRING"; must = false; text = "qemu (default: the first that is usable)."; };
        entrypoint = { kind = "LIST(STRING)"; must = false; text = "The program instead of the image's; its command is not used then, either."; };
        command = { kind = "LIST(STRING)"; must = false; text = "Its arguments instead of the image's."; };
        environment = { kind = "LIST(STRING)"; must = false; text = "NAME=VALUE, besides the image's or in place of it."; };
        cpu_limit_percent = { kind = "U64"; must = false; text = "What its VMM may use at most, in percent of one CPU (default: not limited)."; };
        disk_iops = { kind = "U64"; must = false; text = "Reads and writes per second of its disk at most (default: not limited)."; };
        disk_bandwidth = { kind = "U64"; must = false; text = "Bytes per second that it reads and writes there at most (default: not limited)."; };
        disk_read_iops = { kind = "U64"; must = false; text = "Reads per second of its disk at most, instead of disk_iops (default: not limited)."; };
        disk_write_iops = { kind = "U64"; must = false; text = "Writes per second at most (default: not limited)."; };
        disk_read_bandwidth = { kind = "U64"; must = false; text = "Bytes per second that it reads there at most, instead of disk_bandwidth (default: not limited)."; };
        disk_write_bandwidth = { kind = "U64"; must = false; text = "Bytes per second that it writes there at most (default: not limited)."; };
        shares = { kind = "LIST(STRING)"; must = false; text = "HOST-FOLDER:GUEST-PATH[:ro], of the folders that the node lets machines share."; };
        health = { kind = "STRING"; must = false; text = "What is checked from inside: http://:PORT/PATH, tcp://:PORT, exec:COMMAND or agent."; };
        health_interval_ms = { kind = "U64"; must = false; text = "How often (default 30 s)."; };
        health_timeout_ms = { kind = "U64"; must = false; text = "How long a check may take (default 5 s)."; };
        health_retries = { kind = "U64"; must = false; text = "So many bad checks in a row make it unhealthy (default 3)."; };
        health_start_period_ms = { kind = "U64"; must = false; text = "So long after its start bad checks do not count, until the first good one (default 60 s)."; };
        health_action = { kind = "STRING"; must = false; text = "When it is unhealthy: restart (default) or none."; };
        eviction_strategy = { kind = "STRING"; must = false; text = "When its node is drained: migrate (default: while it runs, else stopped), restart (stopped, moved, started) or none (it does not leave)."; };
        node_loss = { kind = "STRING"; must = false; text = "When its node is lost: wait (default) for it, which has its disk, or restart-fresh: start elsewhere from the image with an empty disk."; };
        rebalance = { kind = "STRING"; must = false; text = "allow (default) or never: whether rebalancing moves it."; };
        after = { kind = "LIST(STRING)"; must = false; text = "Machines that run, and are healthy where they are checked, before it is started."; };
        boot_timeout_ms = { kind = "U64"; must = false; text = "When it is started anew if its agent has not spoken (default 180 s)."; };
        cmdline = { kind = "STRING"; must = false; text = "More words for the kernel's command line."; };
        volumes = { kind = "LIST(STRING)"; must = false; text = "NAME[:PATH][:ro]: volumes that it gets, and where they are mounted."; };
        networks = { kind = "LIST(MachineNetwork)"; must = false; text = "The networks it is in, the first one is its way out (default: a user-mode network of its own)."; };
        machine_type = { kind = "STRING"; must = false; text = "microvm (default), or q35: a PC (default where the image is a disk)."; };
        ssh_keys = { kind = "LIST(STRING)"; must = false; text = "Public keys that may log in: of root, and by cloud-init of the image's user."; };
        user_data = { kind = "STRING"; must = false; text = "For cloud-init, at most 64 KiB; kept at its node alone, and not shown again."; };
        firmware = { kind = "STRING"; must = false; text = "bios or uefi, for images of disks (default: as the image says)."; };
        constraints = { kind = "LIST(STRING)"; must = false; text = "What a node must be: ATTRIBUTE OPERATOR [VALUE], as \${node.zone} = a; of a machine that exists: at its next placement."; };
        affinities = { kind = "LIST(STRING)"; must = false; text = "What a node had better be: WEIGHT, from -100 to 100, and a constraint."; };
        spreads = { kind = "LIST(STRING)"; must = false; text = "[WEIGHT] ATTRIBUTE [VALUE=PERCENT ...]: over what its set is spread: its group, or the machines whose names differ from its in the number at the end."; };
        placement_group = { kind = "STRING"; must = false; text = "The placement group that it is in."; };
        tolerations = { kind = "LIST(STRING)"; must = false; text = "Taints of nodes that it bears: KEY[=VALUE][:EFFECT]."; };
        priority = { kind = "U64"; must = false; text = "0 to 100 (default 50): who waits for room gets it in this order, and from those below by displacing them, where that is allowed."; };
        node_pool = { kind = "STRING"; must = false; text = "The pool of nodes that it is placed in (default: the one called default)."; };
        huge_pages = { kind = "STRING"; must = false; text = "2MiB or 1GiB: its memory is of such pages, which its node has set aside for that; a multiple of them (default: of small ones)."; };
        devices = { kind = "LIST(STRING)"; must = false; text = "Devices of its node that it has whole, WHAT[=COUNT]: a class (gpu, accelerator, network or nic, nvme, storage, usb-controller, crypto), VENDOR:DEVICE (10de:2204) or an address (0000:01:00.0); on USB a class (usb:serial), usb:VENDOR:PRODUCT (usb:0403:6001) or a port (usb:1-2.3)."; };
        dedicated_cpus = { kind = "BOOL"; must = false; text = "Its CPUs are whole ones of its node, on which no other machine runs."; };
        reservation = { kind = "STRING"; must = false; text = "The reservation whose room it takes."; };
        node = { kind = "STRING"; must = false; text = "The node that it is to be on (default: one that suits)."; };
        wait_for_room = { kind = "BOOL"; must = false; text = "One that fits nowhere now is made and pending (default; not where no node has its driver), or, when this is false, refused. True: it waits for a driver, too."; };
      };
    };
    Route = {
      way = "PUT";
      hasNode = false;
      fields = {
        function = { kind = "STRING"; must = true; text = "NAME, NAME:ALIAS or NAME:VERSION."; };
        path = { kind = "STRING"; must = true; text = "/users/{id} or /files/{path...}; parameters reach the function as PATH_PARAM_ID."; };
        hosts = { kind = "LIST(STRING)"; must = false; text = "api.example.org or *.example.org (default: any)."; };
        methods = { kind = "LIST(STRING)"; must = false; text = "GET, POST, ... (default: any; HEAD goes with GET)."; };
        auth = { kind = "STRING"; must = false; text = "none (default), token: a bearer token of a client, or mtls: a certificate."; };
        client_ca = { kind = "STRING"; must = false; text = "For mtls: the certificates that a client's must lead to, PEM, at most 64 KiB."; };
        cors = { kind = "REF(RouteCors)"; must = false; text = "For browsers."; };
        rate_limit = { kind = "REF(RouteLimit)"; must = false; text = "For too much."; };
        body_bytes_max = { kind = "U64"; must = false; text = "Largest body (default: that of the node)."; };
        cache = { kind = "BOOL"; must = false; text = "Keep answers that say they may be kept (RFC 9111; default false)."; };
        websocket = { kind = "BOOL"; must = false; text = "For WebSocket (RFC 6455), and nothing else; body_bytes_max is that of a message (default 1 MiB, at most 16 MiB)."; };
        subprotocols = { kind = "LIST(STRING)"; must = false; text = "Of WebSocket: the first of the client's that is one of these is chosen (default: none)."; };
        stream = { kind = "BOOL"; must = false; text = "Run the function when the head of a request is there; it reads the body as it comes (default false)."; };
        filter = { kind = "STRING"; must = false; text = "A JSON pattern or a CESQL expression of the request's head; others are answered with 204."; };
        timeout_ms = { kind = "U64"; must = false; text = "Limit of a call (default 0: the function's)."; };
        concurrency_max = { kind = "U64"; must = false; text = "Most calls at once, at each node; beyond: 503 (default 0: any)."; };
        paused = { kind = "BOOL"; must = false; text = "Begin paused; absent leaves it as it is."; };
      };
    };
    Trigger = {
      way = "PUT";
      hasNode = false;
      fields = {
        name = { kind = "STRING"; must = false; text = "Its name, where it is not in the path."; };
        kind = { kind = "STRING"; must = true; text = "http (a route), cron, queue, stream, mqtt, redis, nats, kafka or amqp: where events come from."; };
        function = { kind = "STRING"; must = true; text = "NAME or NAME:ALIAS: what is called."; };
        settings = { kind = "REF(TriggerSettings)"; must = false; text = "What the kind wants to know, for example schedule."; };
        filter = { kind = "STRING"; must = false; text = "A JSON pattern or a CESQL expression; other events are passed over."; };
        transform = { kind = "STRING"; must = false; text = "A template that makes the event's data anew."; };
        path = { kind = "STRING"; must = false; text = "Path of the request at the function; of http, which requests: /users/{id}."; };
        batch_size = { kind = "U64"; must = false; text = "Most events of one call (default 1); beyond 1 calls are batches."; };
        batch_window_ms = { kind = "U64"; must = false; text = "How long to wait for a batch to fill (default 0)."; };
        concurrency_max = { kind = "U64"; must = false; text = "Most calls at once (default 10)."; };
        retries = { kind = "U64"; must = false; text = "How often a failed event is tried again (default 3)."; };
        retry_delay_ms = { kind = "U64"; must = false; text = "Before the first retry; it doubles (default 1000)."; };
        retry_delay_max_ms = { kind = "U64"; must = false; text = "Longest delay (default 60000)."; };
        event_age_max_ms = { kind = "U64"; must = false; text = "Give up what fails after so long (default 0: never for its age)."; };
        timeout_ms = { kind = "U64"; must = false; text = "Limit of a call (default 0: the function's)."; };
        bisect = { kind = "BOOL"; must = false; text = "Halve a batch that fails, to find the event it fails at (default false)."; };
        on_success = { kind = "STRING"; must = false; text = "function:NAME, queue:NAME or stream:NAME that gets the answers."; };
        on_failure = { kind = "STRING"; must = false; text = "The same for events that were given up."; };
        paused = { kind = "BOOL"; must = false; text = "Begin paused; absent leaves it as it is."; };
      };
    };
  };
  types = {
    Async = {
      retries = { kind = "U64"; must = false; text = "Attempts after the first (default 2; at most 100)."; };
      backoff_ms = { kind = "U64"; must = false; text = "Before the first of these (default 1000), doubled for each up to 5 minutes, with jitter."; };
      max_age_ms = { kind = "U64"; must = false; text = "Given up after this (default 6 hours; at most 7 days)."; };
      timeout_ms = { kind = "U64"; must = false; text = "Of an attempt (default 0: the function's)."; };
      keep_ms = { kind = "U64"; must = false; text = "How long a result can be asked for (default 24 hours; at most 7 days)."; };
      on_success = { kind = "STRING"; must = false; text = "function:NAME, queue:NAME or stream:NAME gets the result."; };
      on_failure = { kind = "STRING"; must = false; text = "The same, told when it has failed."; };
      dead_letter = { kind = "STRING"; must = false; text = "A queue's name, short for on_failure queue:NAME; only when it is set."; };
    };
    Fetch = {
      allow = { kind = "LIST(STRING)"; must = true; text = "Whom from: [http://|https://]HOST[:PORT], where HOST is a name, *.NAME, *, an address or a network; nothing when empty."; };
    };
    FunctionPlacement = {
      constraints = { kind = "LIST(STRING)"; must = false; text = "What a node must be, as of machines: zone = a."; };
      affinities = { kind = "LIST(STRING)"; must = false; text = "What it had better be: 50 label.disk = ssd."; };
      tolerations = { kind = "LIST(STRING)"; must = false; text = "Taints that it bears."; };
      pool = { kind = "STRING"; must = false; text = "The pool of nodes."; };
      copies = { kind = "U64"; must = false; text = "On so many of these nodes before anybody calls; others of these follow when they are called (default: all of them)."; };
    };
    MachineNetwork = {
      network = { kind = "STRING"; must = true; text = "Its name."; };
      address = { kind = "STRING"; must = false; text = "The address there (default: the lowest that is free)."; };
      mac = { kind = "STRING"; must = false; text = "The MAC address (default: one of its own)."; };
      groups = { kind = "LIST(STRING)"; must = false; text = "Security groups: with one or more, only what these allow comes in."; };
    };
    NodeTaintSpec = {
      key = { kind = "STRING"; must = true; text = "What it is about."; };
      value = { kind = "STRING"; must = false; text = "More of that (default: empty)."; };
      effect = { kind = "STRING"; must = true; text = "NoSchedule, PreferNoSchedule or NoExecute."; };
    };
    NodeWindowSpec = {
      name = { kind = "STRING"; must = true; text = "Its name."; };
      schedule = { kind = "STRING"; must = false; text = "When it opens: cron, as of triggers; or @at TIME."; };
      zone = { kind = "STRING"; must = false; text = "IANA time zone of the schedule (default UTC)."; };
      duration_ms = { kind = "U64"; must = false; text = "How long it is open."; };
      from = { kind = "STRING"; must = false; text = "Once: when it opens (RFC 3339)."; };
      to = { kind = "STRING"; must = false; text = "Once: when it closes."; };
      deadline_ms = { kind = "U64"; must = false; text = "The drain begins so long before it opens (default 15 min)."; };
      force = { kind = "BOOL"; must = false; text = "Machines that cannot leave are stopped."; };
    };
    RouteCors = {
      origins = { kind = "LIST(STRING)"; must = true; text = "https://app.example.org, ...; or *."; };
      methods = { kind = "LIST(STRING)"; must = false; text = "Methods (default: those of the route)."; };
      headers = { kind = "LIST(STRING)"; must = false; text = "Header fields that may be sent (default: those that are asked for)."; };
      expose = { kind = "LIST(STRING)"; must = false; text = "Header fields of the answer that scripts may read."; };
      credentials = { kind = "BOOL"; must = false; text = "With cookies (default false)."; };
      max_age_s = { kind = "U64"; must = false; text = "How long a browser keeps this answer (default 600)."; };
    };
    RouteLimit = {
      requests_per_second = { kind = "DOUBLE"; must = true; text = "On the long run, at each node."; };
      burst = { kind = "U64"; must = false; text = "At once (default: as many as in a second)."; };
      by = { kind = "STRING"; must = false; text = "client: each of them (default); route: all together."; };
    };
    SecurityRule = {
      direction = { kind = "STRING"; must = false; text = "in (default); out: as soon as there is one, nothing else goes out."; };
      allow = { kind = "STRING"; must = true; text = "any, icmp, tcp, udp, tcp/PORT or tcp/FIRST-LAST (and udp)."; };
      peer = { kind = "STRING"; must = false; text = "The other end: an address, a range as 10.0.0.0/8, or group:NAME; anybody when empty."; };
    };
  };
}
