/* The Nix store of this node. */
#include "base/memory.h"

#include "service/nix/nix.h"

#include "main/daemon.h"

int stores_start(struct node *node, struct error *err)
{
    MEMORY_OWNED char *folder = memory_format("%s/nix", node->folder);
    const struct nix_service_options options = {
        .loop = node->loop,
        .store = node->store,
        .operations = node->operations,
        .secrets = node->secrets,
        .images = node->images,
        .cluster = node->cluster,
        .peers = node->peers,
        .blobs = node->blobs,
        .folder = folder,
        .node_name = node->name,
        .http_address = node->options.nix_cache_address,
        .tls_certificate = node->options.nix_cache_tls_certificate,
        .tls_key = node->options.nix_cache_tls_key,
        .upload_token_file = node->options.nix_upload_token_file,
        .read_token_file = node->options.nix_read_token_file,
        .trusted_keys = node->options.nix_trusted_keys,
        .packed_bytes_max = node->options.nix_packed_bytes_max,
    };
    return nix_service_new(&options, &node->nix, err);
}

void stores_stop(struct node *node)
{
    nix_service_free(node->nix);
    node->nix = NULL;
}
