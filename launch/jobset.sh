# shellcheck shell=bash
# Prints the JobSet of launch/gke.sh.
#
# Each value is written as a JSON string, which is also a YAML string, so no
# value in the env file can change the structure of the document.

json() {
  local text=$1 code char
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  if [[ $text == *[[:cntrl:]]* ]]; then
    for code in {1..31} 127; do
      # shellcheck disable=SC2059
      printf -v char "\\x$(printf %02x "$code")"
      text=${text//"$char"/"$(printf '\\u%04x' "$code")"}
    done
  fi
  printf '"%s"' "$text"
}

# Escapes $ as $$: Kubernetes expands $(NAME) in a container's command and env.
literal() { json "${1//\$/\$\$}"; }

# list INDENT TEXT...: prints a YAML list of literals.
list() {
  local indent=$1 text
  shift
  for text; do printf '%*s- %s\n' "$indent" '' "$(literal "$text")"; done
}

environment() {
  local pair
  if ((${#RUN_ENV[@]} == 0)); then return; fi
  echo '              env:'
  for pair in "${RUN_ENV[@]}"; do
    echo "              - name: $(json "${pair%%=*}")"
    echo "                value: $(literal "${pair#*=}")"
  done
}

mount() {
  [[ -n $VOLUME_CLAIM ]] || return 0
  echo '              volumeMounts:'
  echo '              - name: shared'
  echo "                mountPath: $(json "$VOLUME_PATH")"
}

volume() {
  [[ -n $VOLUME_CLAIM ]] || return 0
  echo '            volumes:'
  echo '            - name: shared'
  echo '              persistentVolumeClaim:'
  echo "                claimName: $(json "$VOLUME_CLAIM")"
}

capacity() {
  case $CAPACITY in
    spot) echo '              cloud.google.com/gke-spot: "true"' ;;
    reserved)
      echo "              cloud.google.com/reservation-name: $(
        json "$RESERVATION"
      )"
      ;;
  esac
}

jobset() {
  # Remove the empty lines of omitted fields.
  sed '/^$/d' <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $(json "$RUN_NAME")
  annotations:
    # Each job runs on one slice, which is one node pool.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
$(
    [[ -z $QUEUE ]] || printf '  labels:\n    kueue.x-k8s.io/queue-name: %s\n' \
      "$(json "$QUEUE")"
  )
spec:
  network:
    enableDNSHostnames: true
    # Pods look up each other's addresses before they are ready.
    publishNotReadyAddresses: true
  failurePolicy:
    maxRestarts: $MAX_RESTARTS
    # Old pods release their ports and chips before new pods start.
    restartStrategy: BlockingRecreate
    rules:
    - name: endedForGood
      action: FailJobSet
      onJobFailureReasons:
      - PodFailurePolicy
  replicatedJobs:
  - name: slice
    replicas: $NUM_SLICES
    template:
      spec:
        parallelism: $PODS_PER_SLICE
        completions: $PODS_PER_SLICE
        completionMode: Indexed
        backoffLimit: 0
        podFailurePolicy:
          rules:
          # The node was removed: restart all pods, whatever the exit code.
          - action: Count
            onPodConditions:
            - type: DisruptionTarget
              status: "True"
          # 75 and 76 match no rule: they exceed backoffLimit, and the JobSet
          # restarts.
          - action: FailJob
            onExitCodes:
              containerName: trainer
              operator: NotIn
              values:
              - 75
              - 76
        template:
          metadata:
            labels:
              app.kubernetes.io/name: bigscale
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: $GRACE_SECONDS
$(
    [[ -z $SERVICE_ACCOUNT ]] \
      || echo "            serviceAccountName: $(json "$SERVICE_ACCOUNT")"
  )
            hostNetwork: true
            dnsPolicy: ClusterFirstWithHostNet
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $(json "$GKE_ACCELERATOR")
              cloud.google.com/gke-tpu-topology: $(json "$GKE_TOPOLOGY")
$(capacity)
            tolerations:
            - key: google.com/tpu
              operator: Exists
            - key: cloud.google.com/gke-spot
              operator: Exists
$(volume)
            containers:
            - name: trainer
              image: $(json "$IMAGE")
              workingDir: $(json "$IMAGE_CODE_DIR")
              # No shell, so that the program itself receives SIGTERM.
              command:
$(list 14 "${COMMAND[@]}")
$(environment)
$(mount)
              ports:
              - containerPort: 8471 # TPU
              - containerPort: 8080 # between slices
              - containerPort: 8482 # JAX's coordinator
              resources:
                limits:
                  google.com/tpu: $CHIPS_PER_POD
YAML
}
