# A unit begins the cluster where it is to begin, another applies the documents of what is declared.
{ config, lib, pkgs, ... }:
let
  cfg = config.services.blixard;
  blixard = import ./lib.nix { inherit lib; };
  inherit (blixard) renderByProject telling;
  inherit (lib) concatStringsSep escapeShellArg filterAttrs mapAttrs' mapAttrsToList mkIf nameValuePair optional optionalString;

  byProject = renderByProject cfg.documents;

  secretName = name: s: "secret-${s.project}-${name}";
  kept = filterAttrs (_: m: !m.restartIfChanged) cfg.machines;
  inherit (blixard) url;
  curl = "${blixard.curl cfg.socket} --fail-with-body";

  script = ''
    set -eu
    manifests=''${BLIXARD_MANIFESTS:-/etc/blixard/manifests}
    state=''${STATE_DIRECTORY:?}
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT

    ${concatStringsSep "\n" (mapAttrsToList
      (name: s: ''
        ${curl} --output /dev/null --request PUT --data-binary "@''${CREDENTIALS_DIRECTORY:?}"/${escapeShellArg (secretName name s)} ${escapeShellArg (url "/v1/secrets/${name}?project=${s.project}")}'')
      cfg.secrets)}

    # Machines that have a change whenever they are started next, as PROJECT/NAME.
    kept=${escapeShellArg (concatStringsSep " " (mapAttrsToList (name: m: "${m.project}/${name}") kept))}

    apply() { # PROJECT FILE
      code=0
      blixard plan -f "$2" --project "$1" --owner ${escapeShellArg cfg.apply.owner} --prune -l ${escapeShellArg "managed-by=${cfg.apply.owner}"} --output json > "$work/plan" || code=$?
      [ "$code" -le 1 ] || return "$code"
      blixard apply -f "$2" --project "$1" --owner ${escapeShellArg cfg.apply.owner} --prune -l ${escapeShellArg "managed-by=${cfg.apply.owner}"} --wait '${cfg.apply.wait}' --timeout ${cfg.apply.timeout}${optionalString cfg.apply.replace " --replace"}${optionalString cfg.apply.force " --force-conflicts"}
      jq -r '.actions[] | select(.kind == "Machine" and .action == "update" and any(.changes[]?; .effect == "restart" or .path == "runner")) | .name' "$work/plan" > "$work/restart"
      while read -r machine; do
        case " $kept " in *" $1/$machine "*) continue ;; esac
        ${curl} --output "$work/begun" --request POST ${escapeShellArg (url "/v1/machines")}/"$machine/actions/restart?project=$1"
        blixard operation wait "$(jq -r .operation "$work/begun")"
      done < "$work/restart"
    }

    # Also of projects that nothing is declared of any more: what was is to go.
    : >> "$state/projects"
    for file in "$manifests"/*.yaml; do
      [ ! -e "$file" ] || basename "$file" .yaml
    done | sort -u - "$state/projects" > "$work/projects"
    cp "$work/projects" "$state/projects"
    : > "$work/nothing.yaml"
    while read -r project; do
      file=$manifests/$project.yaml
      [ -e "$file" ] || file=$work/nothing.yaml
      apply "$project" "$file"
    done < "$work/projects"
    (cd "$manifests" 2>/dev/null && for file in *.yaml; do [ ! -e "$file" ] || basename "$file" .yaml; done) > "$state/projects" || : > "$state/projects"
  '';
in
{
  config = mkIf cfg.enable {
    environment.etc = mapAttrs' (project: text: nameValuePair "blixard/manifests/${project}.yaml" { inherit text; }) byProject;

    systemd.services.blixard-bootstrap = mkIf cfg.cluster.bootstrap (telling cfg {
      description = "The first node begins its cluster";
      after = [ "blixard.service" ];
      requires = [ "blixard.service" ];
      path = [ cfg.package pkgs.jq ];
      script = ''
        set -eu
        [ "$(blixard cluster status --output json | jq -r .name)" = null ] || exit 0
        blixard cluster init --name ${escapeShellArg cfg.cluster.name} --servers ${toString cfg.cluster.servers}${optionalString (cfg.advertiseAddress != null) " --address ${escapeShellArg cfg.advertiseAddress}"}
      '';
    });

    # What was applied in part is gone on with.
    systemd.services.blixard-apply = telling cfg {
      description = "What is declared of Blixard in this configuration is applied";
      after = [ "blixard.service" ] ++ optional cfg.cluster.bootstrap "blixard-bootstrap.service";
      wants = [ "blixard.service" ];
      path = [ cfg.package pkgs.coreutils pkgs.jq pkgs.curl ];
      restartTriggers = map (project: config.environment.etc."blixard/manifests/${project}.yaml".source) (builtins.attrNames byProject);
      serviceConfig = {
        StateDirectory = "blixard-apply";
        StateDirectoryMode = "0700";
        PrivateTmp = true;
        LoadCredential = mapAttrsToList (name: s: "${secretName name s}:${s.file}") cfg.secrets;
      };
      inherit script;
    };
  };
}
